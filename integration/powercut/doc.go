// Command powercut cuts the power under a file system that holds a zoned image,
// again and again, and looks at what is left. It runs as root in a guest that
// plays the host (integration/powercut.sh), on a real kernel and file system.
//
// A file system stands on the kernel's log-writes device, which writes down each
// write and flush that reaches the disk. The real zvhost serves an image there; a
// client writes, appends, finishes and resets zones and flushes on four queues,
// and marks in the log what each answered flush has promised. Then, for one place
// in the log after the other, a disk is made as a power cut there can leave it:
// what a completed flush covers is all there; of the writes behind it each is
// there or not, or torn. It is mounted (another device, so that zvhost knows that
// this is no kill -9), checked, served again, and compared.
//
// What lives here: the log's format and the cuts (log.go, cut.go), the machine's
// disks (host.go), what is done to one of them (trial.go), the load (client.go), and
// who judges (history.go, judge.go, look.go). docs/durability.md has the promises.
//
// The log tells the order in which writes ended, so it knows less than a disk
// does: where two flushes overlap it may take a write for one that only the
// later covers. The block layer under the log (a loop device's) lets only one
// flush run at a time and ends them in order, so that this does not come up.
//
// It may import integration/rig, vhostuser/frontend and virtio/driver. It knows the image's
// layout from docs/image-format.md and shares no code with backend, so that a
// mistake on one side shows.
package main
