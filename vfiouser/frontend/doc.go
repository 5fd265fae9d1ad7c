// Package frontend is the other end of vfio-user for a virtio block device: a small virtual machine
// monitor and block driver at once, for tests and for the benchmark. It works with any vfio-user
// server of a virtio 1.x PCI function.
//
// Contents: the connection, with its time limits (client.go), the registers of the PCI function over
// it (access.go), and the setup from a connection to a disk ready for use (disk.go). Messages are
// package vfiouser/client's, registers package virtiopci/pcidriver's, memory, queues and requests
// package virtio/blkclient's.
//
// It may import these three, vfiouser, internal/foreign, virtio/driver and golang.org/x/sys/unix. It
// shares no state with the server that it talks to, even in one process.
//
//	c, err := frontend.Dial("/run/zvhost/disk.vfio")
//	d, err := frontend.Open(c, blkclient.Options{})
//	q := d.Queue(0)
//	sector, err := q.Append(data, zone)
//	err = d.Close()
//
// A queue and its requests belong to one goroutine; different queues do not affect each other, but
// notifications go through the one connection in turn.
package frontend
