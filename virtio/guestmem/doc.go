// Package guestmem is the memory that a guest shares with the daemon: its regions, the
// translation of its addresses, and the few shared fields that must be read and written
// atomically.
//
// Contents: one mapped region (region.go), an immutable set of them with address translation
// (memory.go), 16 and 32 bit fields that two sides access at once (shared.go), the dirty log
// (log.go), and the handling of memory that the front-end removes (guard.go).
//
// It may import internal/iovec, internal/memfault and golang.org/x/sys/unix; virtio,
// virtio/driver and vhostuser import it.
//
// It implements the memory regions of the vhost-user protocol ("Memory region description") and
// the memory side of the virtio specification, "Split Virtqueues": descriptors hold
// guest-physical addresses, and the ring addresses of a vhost-user front-end are addresses in
// that front-end's own space.
//
// # The other side is hostile
//
// The content of this memory may change between two reads. Callers read a field once, into a
// local, and check the local.
//
// The front-end may also truncate the file under a mapping at any time. The next access by Go
// code is then a SIGBUS, which ends the whole process unless the goroutine has called
// debug.SetPanicOnFault(true): then it is a run-time panic that a deferred function can recover.
// (A system call with such an address fails with EFAULT instead.) Every goroutine that accesses
// guest memory must do that, or use Guard (guard.go). So the code that accesses it, here and in
// package virtio, holds no lock meanwhile. After such a fault the ring must not be used any more:
// its state is undefined.
package guestmem
