// Command frontends tests real guests behind the front-ends that they use, in cases that a
// test's own front-end does not cover: disks with less memory, fewer queues or another cache
// mode than the daemon offers, firmware that uses the disk first, devices that are unplugged and
// plugged, machines that are reset and saved.
//
// Contents: a guest behind QEMU's generic device (generic.go), one behind vhost-user-blk-pci
// (block.go), and guests whose memory no back-end can map (memory.go).
//
// It may import integration/vm, which defines how a test program reports.
package main
