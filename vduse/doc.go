// Package vduse is the door to the host's own kernel: Linux's VDUSE ("vDPA device in
// userspace"). The kernel is the front-end, and its virtio driver is the guest: a disk that is
// served here is a /dev/vdX of the host.
//
// What lives here: the messages and structures in bytes (wire.go), the ioctls of a device and
// of /dev/vduse/control (kernel.go, control.go), the vDPA bus (bus.go), the session that acts on
// messages (session.go), its rings, memory and interrupts (rings.go, memory.go, interrupt.go),
// and what it stores for the next process (store.go).
//
// It may import virtio/transport, virtio/guestmem, vhostuser/inflight, internal/foreign,
// golang.org/x/sys/unix and, for the vDPA bus, netlink. It knows nothing of
// virtio-blk but the two feature bits that the kernel has a rule for, and it logs only through
// the function that it is given.
//
// It implements Documentation/userspace-api/vduse.rst and include/uapi/linux/vduse.h of Linux,
// API version 0. docs/vduse.md says what of it, and how a session goes on in another process.
package vduse
