// Command writeback makes the kernel lose data that it should write back, and checks that no
// flush succeeds. It runs as root in a guest that plays the host (integration/writeback.sh), on a
// real kernel and file system.
//
// An ext4 is on a loop device over a sparse file in a tmpfs. When the tmpfs is full the file
// system can overwrite (its journal, and the used part of an image), but new blocks are lost, and
// the kernel reports that to each open file description once. The real zvhost serves a zoned
// image or an ordinary disk there. A client writes while the tmpfs is full, causes the kernel to
// report the error first to a call other than a flush, and flushes. Then the page cache is
// dropped, so that reads return the content of the disk, which is compared with the answers. The
// kernel also reports the error to a description of the test's own on the file: that shows that
// data was lost, and that none was lost in the controls.
//
// Contents: the machine's parts (host.go, daemon.go), the trials of a zoned image (zoned.go) and
// of an ordinary disk (plain.go). docs/durability.md has the promises.
//
// It may import integration/rig, vhostuser/frontend and virtio/driver. It implements nothing.
package main
