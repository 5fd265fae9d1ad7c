// Command powercut cuts the power under a file system that holds a zoned image, again and again,
// and checks what remains. It runs as root in a guest that plays the host
// (integration/powercut.sh), on a real kernel and file system.
//
// A file system is on the kernel's log-writes device, which logs each write and flush that
// reaches the disk. The real zvhost serves an image there. A client writes, appends, finishes and
// resets zones and flushes on four queues, and marks in the log what each answered flush has
// promised. Then, for one place in the log after the other, a disk is made as a power cut there
// can leave it: everything that a completed flush covers is there; each later write is there or
// not, or torn. The disk is mounted (on another device, so that zvhost does not take it for a
// kill -9), checked, served again, and compared.
//
// Contents: the log's format and the cuts (log.go, cut.go), the machine's disks (host.go), the
// steps for one disk (trial.go), the load (client.go), and the verdict (history.go, judge.go,
// look.go). docs/durability.md has the promises.
//
// The log has the order in which writes ended, so it knows less than a disk does: if two flushes
// overlap, it may count a write to one that only the later covers. The block layer under the log
// (a loop device's) runs only one flush at a time and ends them in order, so this does not
// happen.
//
// It may import integration/rig, vhostuser/frontend and virtio/driver. It takes the image's
// layout from docs/image-format.md and shares no code with backend, so that a mistake on one
// side is detected.
package main
