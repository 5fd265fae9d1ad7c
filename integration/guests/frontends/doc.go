// Command frontends has real guests meet the front-ends that they are used with, where
// these are not what a test's own front-end is: disks with less memory, fewer queues or
// another cache mode than the daemon offers, firmware that comes first, devices that are
// unplugged and plugged, machines that are reset and saved.
//
// What lives here: a guest behind QEMU's generic device (generic.go), one behind
// vhost-user-blk-pci (block.go), and guests whose memory no back-end can map (memory.go).
//
// It may import integration/vm, which says how a program of tests reports.
package main
