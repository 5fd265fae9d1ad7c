// Package inflight is the record of the requests that are in flight in the rings of a
// device: shared memory that outlives the process which serves the rings. A front-end that
// connects anew, or a service manager, gives it to the next process, which finds in it
// what was taken from the rings and not answered.
//
// What lives here: the memory (record.go), the record of one ring (record_ring.go), and
// what a packed ring needs besides (record_packed.go).
//
// It may import virtio/guestmem, internal/foreign, internal/failpoint and
// golang.org/x/sys/unix. It knows no message and no disk: package vhostuser carries the
// memory to the front-end and back, and internal/device says what is in flight.
//
// It implements "Inflight I/O tracking" of QEMU's docs/interop/vhost-user.rst.
// docs/restart.md says in which order the record is written, and why.
package inflight
