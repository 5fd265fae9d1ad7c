// Package blkclient is a virtual machine's memory and its block driver at once, over any transport:
// a disk with its queues and requests in flight. The front-ends of the doors are made of it
// (vhostuser/frontend, vfiouser/frontend), for tests and for the benchmark, which work with each
// door in the same way.
//
// Contents, from the bottom up: the guest's memory in a memfd (memory.go), a queue with requests in
// flight (queue.go, spin.go), the block requests with an answer each (requests.go), and the disk
// with what a front-end has to provide (disk.go).
//
// It may import virtio/driver, virtio/guestmem, internal/foreign and golang.org/x/sys/unix.
//
// It implements the driver's part of the virtio specification, "Device Initialization" as far as it
// does not depend on the transport, and "Block Device", with package driver.
//
//	q := d.Queue(0)
//	sector, err := q.Append(data, zone)
//	err = d.Close()
//
// A [Queue] and its requests belong to one goroutine; different queues do not affect each other.
package blkclient
