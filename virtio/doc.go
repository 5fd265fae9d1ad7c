// Package virtio is the device side of virtqueues and of the virtio block device, without any
// I/O: it pops requests from a ring, decodes what each asks of the disk, and writes the answer
// back into guest memory.
//
// Contents: the interface of a ring (queue.go), the split format (split.go, chain.go) and the
// packed one (packed.go, packed_retake.go); feature bits, the configuration space and its
// semantics (blk.go, features.go, config.go, cache.go); requests (request.go, decode.go,
// answer.go) and those of zoned disks (blk_zoned.go); the dirty log (log.go) and the device's
// state for a migration (state.go); and the one place where errors become status bytes
// (status.go). The driver's side of all this is package driver.
//
// It may import backend/disk, backend/zone, virtio/guestmem and internal/iovec, never
// vhostuser. It logs nothing.
//
// It implements the virtio specification, "Basic Facilities of a Virtio Device / Split
// Virtqueues", "Packed Virtqueues" and "Device Types / Block Device", in version 1.4 (committee
// specification 01), without the legacy interface.
//
// # Ownership
//
// A queue worker owns its ring and its requests, and calls them from one goroutine. A Blk is
// shared: workers read its features and its cache mode while the session's goroutine may change
// them.
//
// # Faults
//
// Almost all code here accesses guest memory, and the front-end may remove that memory (package
// guestmem, "The other side is hostile"). The access then panics, in Pop, Push, Publish,
// EnableKicks, DisableKicks, NewSplit, Decode or Complete. None of them holds a lock or accesses
// what other queues use, and each changes its own state only before or after an access, never
// half-way. A caller that recovers stops using the ring and answers the session. Base remains
// valid: it counts every chain that Pop has returned.
package virtio
