package driver

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Feature bits of the ring ("Reserved Feature Bits").
const (
	FeatureIndirectDesc uint64 = 1 << 28
	FeatureEventIdx     uint64 = 1 << 29
	FeatureVersion1     uint64 = 1 << 32
	FeatureRingPacked   uint64 = 1 << 34
)

const (
	descBytes = 16 // struct virtq_desc, struct pvirtq_desc

	flagNext     = 1 // VIRTQ_DESC_F_NEXT
	flagWrite    = 2 // VIRTQ_DESC_F_WRITE
	flagIndirect = 4 // VIRTQ_DESC_F_INDIRECT

	maxSize = 32768
)

var errEmpty = errors.New("a chain has at least one buffer")

// ErrFull: there are not enough free descriptors; harvest used ones first.
var ErrFull = errors.New("not enough free descriptors in the ring")

// A Buffer is a piece of guest memory, Len bytes at a guest-physical address.
type Buffer struct {
	GuestAddr uint64
	Len       uint32
}

// Layout has the guest-physical addresses of the parts of a ring. In a packed ring Avail is
// the driver's event suppression structure, Used the device's.
type Layout struct {
	Size              uint16
	Desc, Avail, Used uint64
}

// A Used is a chain that the device has returned.
type Used struct {
	Head    uint16
	Token   uint64 // as given to Add
	Written uint32 // bytes, as reported by the device
}

// Ring is the driver's side of a virtqueue, split or packed. It belongs to one
// goroutine.
type Ring struct {
	format
	split  *split  // the one of these two that format is
	packed *packed // is not nil

	mem     *guestmem.Memory
	out, in []Buffer // scratch of AddBlk
}

// A format is one of the two formats of a ring.
type format interface {
	// Add puts a chain into the ring: out is what the device reads, in what it
	// writes, one descriptor each. The device sees it with the next Publish. token
	// comes back from Next. It fails with ErrFull when there are too few
	// descriptors, and changes nothing then.
	Add(out, in []Buffer, token uint64) (head uint16, err error)
	// AddIndirect is Add with the descriptors in an indirect table, which it writes at
	// table; the device owns the table until the chain is used. The first direct buffers
	// have descriptors in the ring before the one that refers to the table ("Indirect
	// Descriptors"): 0 for every known driver, and in packed rings, which have no such
	// chains.
	AddIndirect(direct int, table Buffer, out, in []Buffer, token uint64) (head uint16, err error)
	// Publish shows the device everything that was added, and reports whether it wants a
	// kick.
	Publish() (kick bool)
	// Next harvests the next used chain; it returns false if there is none, or if the
	// device has broken the ring: see Err.
	Next() (Used, bool)
	// Err is how the device broke the ring, nil if it did not.
	Err() error
	// EnableCalls asks the device for a call with the next used chain, and reports whether
	// there is one already: then no call may come for it.
	EnableCalls() (pending bool)
	// DisableCalls tells the device not to send calls.
	DisableCalls()
	// Free is the number of free descriptors.
	Free() int
	// Config has the addresses of the parts of the ring.
	Config() Layout
	// Base is where a device begins that continues the ring with nothing in flight: the
	// value for SET_VRING_BASE.
	Base() uint32
	// Rewound is where a device begins that carries out everything in flight again: behind
	// what was used.
	Rewound() uint32
	// StartAt makes an unused ring begin elsewhere than at its beginning, with the
	// device's base the same: as after a reconnect, or to have indices wrap around
	// soon.
	StartAt(base uint32)
}

// partAlign keeps the parts of a ring on cache lines of their own, and leaves
// room behind each event index of a split ring: see guestmem.Uint16.
const partAlign = 64

func roundUp(n uint64) uint64 { return (n + partAlign - 1) &^ (partAlign - 1) }

func availBytes(size uint16) uint64 { return 6 + 2*uint64(size) }
func usedBytes(size uint16) uint64  { return 6 + 8*uint64(size) }

// RingBytes is how many bytes of guest memory a ring of size entries needs at most, in
// either format.
func RingBytes(size uint16) uint64 {
	return roundUp(descBytes*uint64(size)) + roundUp(availBytes(size)) + roundUp(usedBytes(size))
}

// chain is the driver's record of a chain that the device owns.
type chain struct {
	token uint64
	descs uint16 // in the ring itself; 0: not with the device
}

// NewRing lays out an empty ring of size descriptors (1 to 32768, in a split ring a power
// of two) at a guest address (a multiple of 64), in RingBytes(size) bytes that are in one
// region, and clears them. Of features it uses RING_PACKED and EVENT_IDX.
func NewRing(mem *guestmem.Memory, guestAddr uint64, size uint16, features uint64) (*Ring, error) {
	if size == 0 || size > maxSize {
		return nil, fmt.Errorf("ring of %d entries: must be 1 to %d", size, maxSize)
	}
	all, err := mem.Bytes(guestAddr, RingBytes(size))
	if err != nil {
		return nil, fmt.Errorf("ring of %d entries: %w", size, err)
	}
	if guestAddr%partAlign != 0 || !guestmem.Aligned(all, partAlign) {
		return nil, fmt.Errorf("ring at guest address %#x: must be aligned to %d bytes", guestAddr, partAlign)
	}
	clear(all)
	r := &Ring{mem: mem}
	if features&FeatureRingPacked != 0 {
		r.packed = newPacked(mem, all, guestAddr, size, features)
		r.format = r.packed
		return r, nil
	}
	if size&(size-1) != 0 {
		return nil, fmt.Errorf("split ring of %d entries: must be a power of two", size)
	}
	r.split = newSplit(mem, all, guestAddr, size, features)
	r.format = r.split
	return r, nil
}
