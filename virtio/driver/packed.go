package driver

import (
	"encoding/binary"
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

const (
	packedWord = 12 // struct pvirtq_desc: id, and flags in the upper half of 32 bits

	flagAvail = 1 << 7  // VIRTQ_DESC_F_AVAIL
	flagUsed  = 1 << 15 // VIRTQ_DESC_F_USED

	// struct pvirtq_event_suppress: offset and wrap counter, then flags
	eventBytes   = 4
	eventDisable = 1 << 16 // RING_EVENT_FLAGS_DISABLE
	eventDesc    = 2 << 16 // RING_EVENT_FLAGS_DESC
	eventMode    = 3 << 16
)

// packed is the driver's side of a packed virtqueue.
type packed struct {
	mem      *guestmem.Memory
	layout   Layout
	eventIdx bool

	desc        []byte
	driverEvent guestmem.Uint32
	deviceEvent guestmem.Uint32

	avail, used spot // next descriptor to make available, and to find used
	freeCount   int
	free        uint16   // first free buffer id, linked by next
	next        []uint16 // by buffer id
	state       []chain  // by buffer id

	first   spot   // where what is not published begins
	word    uint32 // its id and flags, held back
	pending uint16 // how many descriptors that is
	err     error
}

// A spot is a place in the ring and the wrap counter that goes with it.
type spot struct {
	at   uint16
	wrap bool
}

func (s spot) step(n, size uint16) spot {
	if at := uint32(s.at) + uint32(n); at < uint32(size) {
		return spot{uint16(at), s.wrap}
	}
	return spot{uint16(uint32(s.at) + uint32(n) - uint32(size)), !s.wrap}
}

// encode is how base and event structures have a place.
func (s spot) encode() uint16 {
	if s.wrap {
		return s.at | 1<<15
	}
	return s.at
}

// usedFlags are the flags of a descriptor that is used here, but for WRITE.
func (s spot) usedFlags() uint16 {
	if s.wrap {
		return flagAvail | flagUsed
	}
	return 0
}

func (s spot) availFlags() uint16 {
	if s.wrap {
		return flagAvail
	}
	return flagUsed
}

// newPacked lays out a ring in all, which is clear.
func newPacked(mem *guestmem.Memory, all []byte, guestAddr uint64, size uint16, features uint64) *packed {
	driver := roundUp(descBytes * uint64(size))
	device := driver + partAlign
	r := &packed{
		mem:         mem,
		layout:      Layout{Size: size, Desc: guestAddr, Avail: guestAddr + driver, Used: guestAddr + device},
		eventIdx:    features&FeatureEventIdx != 0,
		desc:        all[:descBytes*int(size)],
		driverEvent: guestmem.Uint32At(all[driver:][:eventBytes], 0),
		deviceEvent: guestmem.Uint32At(all[device:][:eventBytes], 0),
		avail:       spot{0, true},
		used:        spot{0, true},
		freeCount:   int(size),
		next:        make([]uint16, size),
		state:       make([]chain, size),
	}
	for i := range r.next {
		r.next[i] = uint16(i + 1)
	}
	return r
}

// Config is format.Config.
func (r *packed) Config() Layout { return r.layout }

// Free is format.Free.
func (r *packed) Free() int { return r.freeCount }

// Err is format.Err.
func (r *packed) Err() error { return r.err }

// Base is format.Base.
func (r *packed) Base() uint32 { return uint32(r.avail.encode()) | uint32(r.avail.encode())<<16 }

// Rewound is format.Rewound. What is used and not harvested yet counts as in
// flight: the ring does not say how far that goes.
func (r *packed) Rewound() uint32 { return uint32(r.used.encode()) | uint32(r.used.encode())<<16 }

// StartAt is format.StartAt. The descriptors look as they do when everything up
// to there was used: those from there on have the wrap counter of the lap before.
func (r *packed) StartAt(base uint32) {
	at := spot{uint16(base) &^ (1 << 15), base>>15&1 != 0}
	r.avail, r.used = at, at
	for i := range r.layout.Size {
		lap := spot{i, at.wrap != (i >= at.at)}
		r.wordAt(i).Store(uint32(lap.usedFlags()) << 16)
	}
}

// wordAt is id and flags of a descriptor.
func (r *packed) wordAt(i uint16) guestmem.Uint32 {
	return guestmem.Uint32At(r.desc, int(i)*descBytes+packedWord)
}

// Add is format.Add.
func (r *packed) Add(out, in []Buffer, token uint64) (id uint16, err error) {
	n := len(out) + len(in)
	if n == 0 {
		return 0, errEmpty
	}
	if n > r.freeCount {
		return 0, ErrFull
	}
	at := r.avail
	var first uint32
	for i := range n {
		b, flags := pick(out, in, i)
		if i < n-1 {
			flags |= flagNext
		}
		word := r.put(at, b, flags)
		if i == 0 {
			first = word
		}
		at = at.step(1, r.layout.Size)
	}
	return r.offer(first, n, token), nil
}

// AddIndirect is format.AddIndirect.
func (r *packed) AddIndirect(direct int, table Buffer, out, in []Buffer, token uint64) (id uint16, err error) {
	n := len(out) + len(in)
	if direct != 0 || n == 0 {
		return 0, errEmpty
	}
	if uint64(n)*descBytes > uint64(table.Len) {
		return 0, fmt.Errorf("indirect table of %d bytes has no room for %d descriptors", table.Len, n)
	}
	if r.freeCount == 0 {
		return 0, ErrFull
	}
	mem, err := r.mem.Bytes(table.GuestAddr, uint64(n)*descBytes)
	if err != nil {
		return 0, fmt.Errorf("indirect table: %w", err)
	}
	for i := range n {
		b, flags := pick(out, in, i)
		putPacked(mem[i*descBytes:], b.GuestAddr, b.Len, 0, flags)
	}
	word := r.put(r.avail, Buffer{table.GuestAddr, uint32(n) * descBytes}, flagIndirect)
	return r.offer(word, 1, token), nil
}

// pick returns the i-th buffer of out and in.
func pick(out, in []Buffer, i int) (b Buffer, flags uint16) {
	if i < len(out) {
		return out[i], 0
	}
	return in[i-len(out)], flagWrite
}

// put writes a descriptor of the chain in the making, but for id and flags of its
// first one: it returns what they are to be.
func (r *packed) put(at spot, b Buffer, flags uint16) (word uint32) {
	d := r.desc[int(at.at)*descBytes:][:descBytes]
	binary.LittleEndian.PutUint64(d, b.GuestAddr)
	binary.LittleEndian.PutUint32(d[8:], b.Len)
	// The id has to stand in the last descriptor, and does no harm in the others.
	word = uint32(r.free) | uint32(flags|at.availFlags())<<16
	if at != r.avail {
		binary.LittleEndian.PutUint32(d[packedWord:], word)
	}
	return word
}

// offer makes the chain of n descriptors that was written available, the first
// one since Publish with its first descriptor held back.
func (r *packed) offer(word uint32, n int, token uint64) (id uint16) {
	if r.pending == 0 {
		r.first, r.word = r.avail, word
	} else {
		r.wordAt(r.avail.at).Store(word)
	}
	id = r.free
	r.free = r.next[id]
	r.state[id] = chain{token: token, descs: uint16(n)}
	r.freeCount -= n
	r.pending += uint16(n)
	r.avail = r.avail.step(uint16(n), r.layout.Size)
	return id
}

// Publish is format.Publish ("Supplying Buffers to The Device"). Barriers are as
// in a split ring.
func (r *packed) Publish() (kick bool) {
	if r.pending == 0 {
		return false
	}
	r.wordAt(r.first.at).Store(r.word)
	n := r.pending
	r.pending = 0
	event := r.deviceEvent.Load()
	switch {
	case event&eventMode == eventDisable:
		return false
	case event&eventMode != eventDesc || !r.eventIdx:
		return true
	}
	// Whether the descriptor that the device waits for is among these n.
	at := spot{uint16(event) &^ (1 << 15), event>>15&1 != 0}
	for i, s := uint16(0), r.first; i < n; i, s = i+1, s.step(1, r.layout.Size) {
		if s == at {
			return true
		}
	}
	return false
}

// Next is format.Next.
func (r *packed) Next() (Used, bool) {
	if r.err != nil {
		return Used{}, false
	}
	word := r.wordAt(r.used.at).Load()
	// Of descriptors that were never made available nothing can be used: their
	// flags are those of the lap before.
	if uint16(word>>16)&(flagAvail|flagUsed) != r.used.usedFlags() {
		return Used{}, false
	}
	id := uint16(word)
	if id >= r.layout.Size || r.state[id].descs == 0 {
		r.err = fmt.Errorf("device gave back buffer %d in descriptor %d, but it has no such chain", id, r.used.at)
		return Used{}, false
	}
	u := Used{Head: id, Token: r.state[id].token}
	if word>>16&flagWrite != 0 { // without it the length says nothing
		u.Written = binary.LittleEndian.Uint32(r.desc[int(r.used.at)*descBytes+8:])
	}
	n := r.state[id].descs
	r.state[id] = chain{}
	r.next[id] = r.free
	r.free = id
	r.freeCount += int(n)
	r.used = r.used.step(n, r.layout.Size)
	return u, true
}

// EnableCalls is format.EnableCalls ("Driver and Device Event Suppression").
func (r *packed) EnableCalls() (pending bool) {
	wish := uint32(0)
	if r.eventIdx {
		wish = eventDesc | uint32(r.used.encode())
	}
	r.driverEvent.Store(wish)
	flags := uint16(r.wordAt(r.used.at).Load() >> 16)
	return flags&(flagAvail|flagUsed) == r.used.usedFlags()
}

// DisableCalls is format.DisableCalls.
func (r *packed) DisableCalls() { r.driverEvent.Store(eventDisable) }

// putPacked writes a struct pvirtq_desc.
func putPacked(d []byte, addr uint64, length uint32, id, flags uint16) {
	binary.LittleEndian.PutUint64(d, addr)
	binary.LittleEndian.PutUint64(d[8:], uint64(length)|uint64(id)<<32|uint64(flags)<<48)
}
