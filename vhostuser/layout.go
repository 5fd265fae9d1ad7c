package vhostuser

import (
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Features that decide what a ring looks like (virtio, "Reserved Feature Bits").
const (
	featureEventIdx   uint64 = 1 << 29 // VIRTIO_F_EVENT_IDX
	featureRingPacked uint64 = 1 << 34 // VIRTIO_F_RING_PACKED
)

// packedStart is where a packed ring begins: at descriptor 0, both wrap counters
// 1 (virtio, "Driver and Device Ring Wrap Counters").
const packedStart = 0x8000_8000

// covered checks that the three parts of a ring lie in memory, each wholly in
// one region, and are aligned, in this process too: a front-end may have mapped a
// region at an address that is aligned otherwise.
func covered(mem *guestmem.Memory, r *ringState, features uint64) error {
	for _, part := range parts(r, features) {
		b, err := mem.UserBytes(part.addr, part.size)
		if err != nil {
			return fmt.Errorf("its %s: %w", part.name, err)
		}
		if part.addr%part.align != 0 || !guestmem.Aligned(b, uintptr(part.align)) {
			return fmt.Errorf("its %s at user address %#x is mapped unaligned: it must be at a multiple of %d in its file", part.name, part.addr, part.align)
		}
	}
	return nil
}

// A ringPart is one of the three parts of a ring, in bytes.
type ringPart struct {
	name              string
	addr, size, align uint64
}

func parts(r *ringState, features uint64) [3]ringPart {
	n, event := uint64(r.num), uint64(0)
	if features&featureRingPacked != 0 {
		// virtio, "Structure Size and Alignment"
		return [3]ringPart{
			{"descriptor ring", r.desc, 16 * n, 16},
			{"driver event suppression", r.avail, 4, 4},
			{"device event suppression", r.used, 4, 4},
		}
	}
	if features&featureEventIdx != 0 {
		event = 2 // both rings then end with an event index
	}
	// virtio, "Split Virtqueues"
	return [3]ringPart{
		{"descriptor table", r.desc, 16 * n, 16},
		{"avail ring", r.avail, 4 + 2*n + event, 2},
		{"used ring", r.used, 4 + 8*n + event, 4},
	}
}
