// Package virtio is the device side of virtqueues and of the virtio block
// device, without any I/O: it takes requests out of a ring, says what each asks
// of the disk, and writes the answer back into guest memory.
//
// What lives here: the interface of a ring (queue.go), the split format
// (split.go, chain.go) and the packed one (packed.go); feature bits, the configuration space and its semantics
// (blk.go, config.go); requests (request.go, decode.go, iov.go) and those of
// zoned disks (blk_zoned.go); and the one place where errors become status bytes
// (status.go). The driver's side of all this is package driver.
//
// It may import backend and virtio/guestmem, never vhostuser. It logs nothing.
//
// It implements the virtio specification, "Basic Facilities of a Virtio Device /
// Split Virtqueues", "Packed Virtqueues" and "Device Types / Block Device", in version
// 1.4 (committee specification 01), without the legacy interface.
//
// # Ownership
//
// A queue worker owns its ring and its requests, and calls them from one
// goroutine. A Blk is shared: workers read its features and its cache mode while
// the session's goroutine may change them.
//
// # Faults
//
// Almost everything here touches guest memory, and the other side may take that
// memory away (package guestmem, "The other side is hostile"), which shows as a
// panic in the calls Pop, Push, Publish, EnableKicks, DisableKicks, NewSplit,
// Decode and Complete. None of them holds a lock or touches what other queues
// use, and each changes its own books only around accesses, never half-way: a
// recovered caller drops the ring and answers the session. Base still holds
// then: it counts every chain that Pop has taken.
package virtio
