package driver

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Feature bits of the ring ("Reserved Feature Bits").
const (
	FeatureIndirectDesc uint64 = 1 << 28
	FeatureEventIdx     uint64 = 1 << 29
	FeatureVersion1     uint64 = 1 << 32
)

const (
	descBytes = 16 // struct virtq_desc

	flagNext     = 1 // VIRTQ_DESC_F_NEXT
	flagWrite    = 2 // VIRTQ_DESC_F_WRITE
	flagIndirect = 4 // VIRTQ_DESC_F_INDIRECT

	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY
)

// ErrFull says that there are not enough free descriptors: harvest used ones
// first.
var ErrFull = errors.New("not enough free descriptors in the ring")

// A Buffer is a piece of guest memory, Len bytes at a guest-physical address.
type Buffer struct {
	GuestAddr uint64
	Len       uint32
}

// Layout says where the parts of a ring are, as guest-physical addresses.
type Layout struct {
	Size              uint16
	Desc, Avail, Used uint64
}

// A Used is a chain that the device has given back.
type Used struct {
	Head    uint16
	Token   uint64 // as given to Add
	Written uint32 // bytes, as the device says
}

// Ring is the driver's side of a split virtqueue. It belongs to one goroutine.
type Ring struct {
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

	out, in []Buffer // scratch of AddBlk
}

// chain is what the driver knows about a chain that the device has.
type chain struct {
	token uint64
	descs uint16 // in the ring's own table; 0: not with the device
}

// partAlign keeps the parts of a ring on cache lines of their own, and leaves
// room behind each event index: see guestmem.Uint16.
const partAlign = 64

func roundUp(n uint64) uint64 { return (n + partAlign - 1) &^ (partAlign - 1) }

func availBytes(size uint16) uint64 { return 6 + 2*uint64(size) }
func usedBytes(size uint16) uint64  { return 6 + 8*uint64(size) }

// RingBytes is how many bytes of guest memory a ring of size entries takes.
func RingBytes(size uint16) uint64 {
	return roundUp(descBytes*uint64(size)) + roundUp(availBytes(size)) + roundUp(usedBytes(size))
}

// NewRing lays out an empty ring of size entries (a power of two up to 32768) at
// a guest address (a multiple of 64), in RingBytes(size) bytes that lie in one
// region, and clears them. Of features, EVENT_IDX matters.
func NewRing(mem *guestmem.Memory, guestAddr uint64, size uint16, features uint64) (*Ring, error) {
	if size == 0 || size > 32768 || size&(size-1) != 0 {
		return nil, fmt.Errorf("ring of %d entries: must be a power of two from 1 to 32768", size)
	}
	all, err := mem.Bytes(guestAddr, RingBytes(size))
	if err != nil {
		return nil, fmt.Errorf("ring of %d entries: %w", size, err)
	}
	if guestAddr%partAlign != 0 || !guestmem.Aligned(all, partAlign) {
		return nil, fmt.Errorf("ring at guest address %#x: must be aligned to %d bytes", guestAddr, partAlign)
	}
	clear(all)
	availOff := roundUp(descBytes * uint64(size))
	usedOff := availOff + roundUp(availBytes(size))
	avail := all[availOff:][:availBytes(size)]
	used := all[usedOff:][:usedBytes(size)]
	r := &Ring{
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
	return r, nil
}

// Config says where the parts of the ring are.
func (r *Ring) Config() Layout { return r.layout }

// Free is the number of free descriptors.
func (r *Ring) Free() int { return r.freeCount }

// Publish shows the device everything that was added, and says whether it wants
// a kick ("Available Buffer Notification Suppression"). The store of the index
// and the load of what the device wishes are both sequentially consistent, which
// is the barrier between them that the specification asks for (package guestmem,
// shared.go).
func (r *Ring) Publish() (kick bool) {
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
func (r *Ring) storeAvail() {
	r.availWord.Store(uint32(r.published)<<16 | uint32(r.flags))
}

// Next harvests the next used entry; it is false when there is none, or when the
// device has broken the ring: see Err.
func (r *Ring) Next() (Used, bool) {
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
func (r *Ring) release(head uint16) {
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

// Err says how the device broke the ring, nil if it did not.
func (r *Ring) Err() error { return r.err }

// EnableCalls asks the device for a call with the next used entry, and says
// whether there is one already: then no call may come for it ("Used Buffer
// Notification Suppression").
func (r *Ring) EnableCalls() (pending bool) {
	if r.eventIdx {
		r.usedEvent.Store(r.lastUsed)
	} else {
		r.flags = 0
		r.storeAvail()
	}
	return r.usedIdx.Load() != r.lastUsed
}

// DisableCalls tells the device that calls are a waste just now.
func (r *Ring) DisableCalls() {
	if r.eventIdx {
		// Just passed: the index comes here again after 65536 entries.
		r.usedEvent.Store(r.lastUsed - 1)
		return
	}
	r.flags = availNoInterrupt
	r.storeAvail()
}
