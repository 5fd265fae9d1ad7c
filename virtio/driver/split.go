package driver

import (
	"encoding/binary"
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

const (
	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY
)

// split is the driver's side of a split virtqueue.
type split struct {
	mem      *guestmem.Memory
	layout   Layout
	eventIdx bool

	desc       []byte
	avail      []byte // entries
	used       []byte // entries
	availWord  guestmem.Uint32
	usedEvent  guestmem.Uint16
	usedFlags  guestmem.Uint16
	usedIdx    guestmem.Uint16
	availEvent guestmem.Uint16

	free      uint16 // first free descriptor, linked by next
	freeCount int
	next      []uint16 // by descriptor: the next one of its chain, or free one
	state     []chain  // by head

	availIdx  uint16 // with what was added
	published uint16 // as the device sees it
	lastUsed  uint16 // next used entry to harvest
	seenUsed  uint16 // used index as last loaded
	flags     uint16 // availNoInterrupt or 0
	err       error
}

// newSplit lays out a ring in all, which is clear.
func newSplit(mem *guestmem.Memory, all []byte, guestAddr uint64, size uint16, features uint64) *split {
	availOff := roundUp(descBytes * uint64(size))
	usedOff := availOff + roundUp(availBytes(size))
	avail := all[availOff:][:availBytes(size)]
	used := all[usedOff:][:usedBytes(size)]
	r := &split{
		mem:        mem,
		layout:     Layout{Size: size, Desc: guestAddr, Avail: guestAddr + availOff, Used: guestAddr + usedOff},
		eventIdx:   features&FeatureEventIdx != 0,
		desc:       all[:descBytes*int(size)],
		avail:      avail[4 : len(avail)-2],
		used:       used[4 : len(used)-2],
		availWord:  guestmem.Uint32At(avail, 0),
		usedEvent:  guestmem.Uint16At(avail, len(avail)-2),
		usedFlags:  guestmem.Uint16At(used, 0),
		usedIdx:    guestmem.Uint16At(used, 2),
		availEvent: guestmem.Uint16At(used, len(used)-2),
		freeCount:  int(size),
		next:       make([]uint16, size),
		state:      make([]chain, size),
	}
	for i := range r.next {
		r.next[i] = uint16(i + 1)
	}
	return r
}

// Config is format.Config.
func (r *split) Config() Layout { return r.layout }

// Free is format.Free.
func (r *split) Free() int { return r.freeCount }

// Publish is format.Publish ("Available Buffer Notification Suppression"). The store of the index
// and the load of what the device wishes are both sequentially consistent, which
// is the barrier between them that the specification asks for (package guestmem,
// shared.go).
func (r *split) Publish() (kick bool) {
	old := r.published
	if r.availIdx == old {
		return false
	}
	r.published = r.availIdx
	r.storeAvail()
	if r.eventIdx {
		return r.availIdx-r.availEvent.Load()-1 < r.availIdx-old
	}
	return r.usedFlags.Load()&usedNoNotify == 0
}

// storeAvail makes flags and the published index visible.
func (r *split) storeAvail() {
	r.availWord.Store(uint32(r.published)<<16 | uint32(r.flags))
}

// Next is format.Next.
func (r *split) Next() (Used, bool) {
	if r.lastUsed == r.seenUsed {
		if r.err != nil {
			return Used{}, false
		}
		idx := r.usedIdx.Load()
		if n := idx - r.lastUsed; n > r.layout.Size {
			r.err = fmt.Errorf("device moved the used index from %d to %d in a ring of %d entries", r.lastUsed, idx, r.layout.Size)
			return Used{}, false
		}
		if r.seenUsed = idx; idx == r.lastUsed {
			return Used{}, false
		}
	}
	slot := int(r.lastUsed & (r.layout.Size - 1))
	e := binary.LittleEndian.Uint64(r.used[8*slot:])
	id, written := uint32(e), uint32(e>>32)
	if id >= uint32(r.layout.Size) || r.state[id].descs == 0 {
		r.err = fmt.Errorf("device gave back descriptor %d in used entry %d, but it has no such chain", id, r.lastUsed)
		r.seenUsed = r.lastUsed
		return Used{}, false
	}
	r.lastUsed++
	head := uint16(id)
	u := Used{Head: head, Token: r.state[head].token, Written: written}
	r.release(head)
	return u, true
}

// release puts the descriptors of a chain back on the free list.
func (r *split) release(head uint16) {
	n := r.state[head].descs
	r.state[head] = chain{}
	last := head
	for range n - 1 {
		last = r.next[last]
	}
	r.next[last] = r.free
	r.free = head
	r.freeCount += int(n)
}

// Err is format.Err.
func (r *split) Err() error { return r.err }

// EnableCalls is format.EnableCalls ("Used Buffer Notification Suppression").
func (r *split) EnableCalls() (pending bool) {
	if r.eventIdx {
		r.usedEvent.Store(r.lastUsed)
	} else {
		r.flags = 0
		r.storeAvail()
	}
	return r.usedIdx.Load() != r.lastUsed
}

// DisableCalls is format.DisableCalls.
func (r *split) DisableCalls() {
	if r.eventIdx {
		// Just passed: the index comes here again after 65536 entries.
		r.usedEvent.Store(r.lastUsed - 1)
		return
	}
	r.flags = availNoInterrupt
	r.storeAvail()
}

// Base is format.Base.
func (r *split) Base() uint32 { return uint32(r.published) }

// Rewound is format.Rewound.
func (r *split) Rewound() uint32 { return uint32(r.usedIdx.Load()) }

// StartAt is format.StartAt.
func (r *split) StartAt(base uint32) {
	idx := uint16(base)
	r.availIdx, r.published, r.lastUsed, r.seenUsed = idx, idx, idx, idx
	r.storeAvail()
	r.usedIdx.Store(idx)
	r.usedEvent.Store(idx)
	r.availEvent.Store(idx)
}
