// Command writeback has the kernel lose data that it was to write back, and looks
// whether a flush says that all is well all the same. It runs as root in a guest that
// plays the host (integration/writeback.sh), on a real kernel and file system.
//
// An ext4 stands on a loop device over a sparse file in a tmpfs. When the tmpfs is
// full the file system can write again where it has been before, its journal and
// what is in use of an image, but what is new is lost, and the kernel tells each open
// file description so once. The real zvhost serves a zoned image or an ordinary disk
// there; a client writes while the tmpfs is full, has the news come first to something
// else than a flush, and flushes. Then the page cache is dropped, so that what is read
// is what the disk has, and held against the answers. A descriptor of our own on the
// file is told as well: so data was lost, and none in the controls.
//
// What lives here: the machine's parts (host.go, daemon.go), the trials of a zoned
// image (zoned.go) and of an ordinary disk (plain.go). docs/durability.md has the
// promises.
//
// It may import integration/rig, vhostuser/frontend and virtio/driver. It implements nothing.
package main
