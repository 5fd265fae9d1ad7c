// Package device is the virtio-blk device over a disk, with one worker for each queue.
//
// What lives here: the device as a transport drives it (device.go) and what of it another
// process, or another host, needs to know (state.go); how it releases its disk to another
// daemon and acquires it again (release.go); the worker (worker.go), its requests (requests.go),
// how it resumes the requests of a process that died (pickup.go), how long it looks for more
// work before it sleeps (poll.go), how it is woken (kick.go) and notifies (notify.go), what it does
// with a ring that is broken (broken.go), and what is logged when the disk does not answer (halt.go, overdue.go);
// which engine does its I/O (engine.go).
//
// It may import virtio/transport, of which it implements Device, vhostuser/inflight, virtio,
// backend, internal/recovery, which it asks what may be carried out again, internal/logging
// and logrus. It knows no socket and no door but the interface that virtio/transport states.
//
// It implements "Device Operation" of virtio's "Block Device", as far as it is about queues:
// what a request means is package virtio's.
package device
