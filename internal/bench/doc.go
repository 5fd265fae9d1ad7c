// Package bench measures a vhost-user-blk back-end or a vfio-user server of a virtio block device:
// it acts as the guest, keeps requests in
// flight, and reports the number of answers, their latency, and the processor time of both
// sides.
//
// Contents: the configuration (config.go), one queue's loop of sending and reaping (loop.go),
// the sectors of requests (work.go; zones.go on a zoned disk), the same on a file itself
// (file.go), latencies (histogram.go), processor time (cpu.go), the connection to the back-end
// (dial.go), the run (run.go) and its result as text (result.go).
//
// It may import vhostuser/frontend, vfiouser/frontend, virtio/blkclient, virtio/driver,
// virtio/transport, internal/uring and golang.org/x/sys/unix. It does not depend on zvhost's daemon: any back-end will do.
//
// It implements nothing of its own: the virtqueue and the requests are package driver's. A
// request allocates no memory, changes no goroutine and takes no lock.
package bench
