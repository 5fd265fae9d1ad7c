// Package guestmem is the memory that a guest shares with us: its regions, the
// translation of its addresses, and the few shared fields that must be read and
// written atomically.
//
// What lives here: one mapped region (region.go), an immutable set of them with
// address translation (memory.go), 16 and 32 bit fields that two sides access at
// once (shared.go), the dirty log (log.go), and what becomes of memory that is taken
// away (guard.go).
//
// It imports nothing but the standard library and golang.org/x/sys/unix; virtio,
// virtio/driver and vhostuser all stand on it.
//
// It implements the memory regions of the vhost-user protocol ("Memory region
// description") and the memory side of the virtio specification, "Split
// Virtqueues": descriptors hold guest-physical addresses, and the ring addresses
// of a vhost-user front-end are addresses in that front-end's own space.
//
// # The other side is hostile
//
// Whatever stands in this memory may change between two reads. Callers read a
// field once, into a local, and check the local.
//
// The other side may also shrink the file under a mapping at any time. The next
// access by Go code is then a SIGBUS, which ends the whole process unless the
// goroutine has called debug.SetPanicOnFault(true): then it is a run-time panic
// that a deferred function can recover. (A system call that is handed such an
// address fails with EFAULT instead.) Every goroutine that touches guest memory
// must do that, or do it in Guard (guard.go), and so the code that touches it, here
// and in package virtio, holds no lock while it does. After such a fault the ring is
// to be given up: what was half done in it stays half done.
package guestmem
