package transport

import (
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Features that decide what a ring looks like (virtio, "Reserved Feature Bits").
const (
	featureEventIdx   uint64 = 1 << 29 // VIRTIO_F_EVENT_IDX
	featureRingPacked uint64 = 1 << 34 // VIRTIO_F_RING_PACKED
)

// Check checks what a transport has to: that the three parts of the ring lie in Mem, each wholly
// in one region, and are aligned, in this process too: a front-end may have mapped a region at
// an address that is aligned otherwise.
func (r *Ring) Check() error {
	for _, part := range r.parts() {
		b, err := r.Mem.UserBytes(part.addr, part.size)
		if err != nil {
			return fmt.Errorf("its %s: %w", part.name, err)
		}
		if part.addr%part.align != 0 || !guestmem.Aligned(b, uintptr(part.align)) {
			return fmt.Errorf("its %s at user address %#x is mapped unaligned: it must be at a multiple of %d in its file", part.name, part.addr, part.align)
		}
	}
	return nil
}

// UsedBytes is how long the part of the ring at Used is.
func (r *Ring) UsedBytes() uint64 { return r.parts()[2].size }

// A ringPart is one of the three parts of a ring, in bytes.
type ringPart struct {
	name              string
	addr, size, align uint64
}

func (r *Ring) parts() [3]ringPart {
	n, event := uint64(r.Size), uint64(0)
	if r.Features&featureRingPacked != 0 {
		// virtio, "Structure Size and Alignment"
		return [3]ringPart{
			{"descriptor ring", r.Desc, 16 * n, 16},
			{"driver event suppression", r.Avail, 4, 4},
			{"device event suppression", r.Used, 4, 4},
		}
	}
	if r.Features&featureEventIdx != 0 {
		event = 2 // both rings then end with an event index
	}
	// virtio, "Split Virtqueues"
	return [3]ringPart{
		{"descriptor table", r.Desc, 16 * n, 16},
		{"avail ring", r.Avail, 4 + 2*n + event, 2},
		{"used ring", r.Used, 4 + 8*n + event, 4},
	}
}
