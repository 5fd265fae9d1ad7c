// Package bench measures a vhost-user-blk back-end: it is the guest, with so many
// requests in flight, and says how many were answered, how fast, and what that
// cost either side.
//
// What lives here: what is to be measured (config.go), one queue's round of
// sending and reaping (loop.go), where requests go (work.go; zones.go on a zoned
// disk), the same on a file itself (file.go), latencies (histogram.go), processor
// time (cpu.go), the way to the back-end (dial.go), the whole of it (run.go) and what came out, in words (result.go).
//
// It may import vhostuser, vhostuser/frontend, virtio/driver, internal/uring and
// golang.org/x/sys/unix. It knows nothing of our own daemon: any back-end will do.
//
// It implements nothing of its own: the virtqueue and the requests are package
// driver's. No request allocates memory, changes the goroutine, or passes a lock.
package bench
