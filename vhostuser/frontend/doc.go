// Package frontend is the other end of vhost-user: a small front-end that acts as virtual machine
// and block driver at once, for tests and for the benchmark. It works with any vhost-user-blk
// back-end.
//
// Contents, from the bottom up: the protocol's messages one by one (client.go, rings.go, log.go,
// state.go), the record of requests in flight, with which a disk continues over another connection
// (inflight.go), and the whole setup from a connection to a disk ready for use (disk.go). Memory,
// queues and requests are package virtio/blkclient's.
//
// It may import vhostuser, internal/foreign, virtio/blkclient, virtio/driver, virtio/guestmem and
// golang.org/x/sys/unix. It shares no state with the back-end that it talks to, even in one
// process: everything goes through the socket, the memfd and the eventfds.
//
// It implements the front-end's part of the protocol that package vhostuser names, and the
// driver's part of the virtio specification, "Device Initialization" and "Block Device", with
// package driver.
//
//	c, err := frontend.Dial("/run/zvhost/disk.sock")
//	d, err := frontend.Open(c, frontend.Options{})
//	q := d.Queue(0)
//	sector, err := q.Append(zone, data)
//	err = d.Close()
//
// A [Queue] and its requests belong to one goroutine; different queues do not affect each other.
// A [Client] belongs to one goroutine as well.
package frontend
