// Package transport is what a transport of virtio devices and a device ask of each other.
// A transport is how a driver reaches a device: a vhost-user session, a PCI function behind
// vfio-user, Linux's VDUSE. It gives the device memory, rings, notifiers, features and
// configuration accesses; the device serves its queues and does not know which one it is.
//
// What lives here: the interface that a transport calls, [Device], and what it passes for
// each queue, [Ring] (device.go); where the parts of a ring are in memory (layout.go).
//
// It may import virtio/guestmem and vhostuser/inflight, the record of requests in flight,
// which every transport uses.
//
// It implements no chapter of the virtio specification; it divides them. "Device
// Initialization", "Virtio Transport Options" and the layout of rings in memory are the
// transport's; "Virtqueues" and "Block Device" are the device's.
package transport
