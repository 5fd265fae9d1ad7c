package zone

import "fmt"

const (
	writtenBits = 44
	stateShift  = writtenBits
	checkShift  = 48
	writtenMask = 1<<writtenBits - 1
)

// An Entry is one zone in a table of the image: its state and how many of its
// sectors are written, in 64 bits that are always stored at once, so that no
// crash of the daemon can tear it.
//
//	bits 0..43   sectors written, from the zone's start
//	bits 44..47  state, numbered as VIRTIO_BLK_ZS_*
//	bits 48..63  check, a hash of the rest and of the zone number
//
// A finished zone is Full with fewer sectors written than its capacity; what is
// behind them reads as zeroes.
type Entry uint64

// Pack is the entry of zone i in state s with so many sectors written.
func Pack(i int, s State, written uint64) Entry {
	low := written&writtenMask | uint64(s)<<stateShift
	return Entry(low | uint64(check(i, low))<<checkShift)
}

// check is multiplicative hashing: cheap, without allocation (hash/crc32's
// argument escapes), and any one wrong bit changes about half of it.
func check(i int, low uint64) uint16 {
	h := (low ^ uint64(i+1)*0x9e3779b97f4a7c15) * 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return uint16(h >> 48)
}

// Written is how many sectors are written, from the zone's start.
func (w Entry) Written() uint64 { return uint64(w) & writtenMask }

// State is the zone's state.
func (w Entry) State() State { return State(w >> stateShift & 15) }

// HasData says whether the zone holds sectors that a reset has to make go away.
func (w Entry) HasData() bool { return w.Written() != 0 }

// Outlasts says whether a zone with this entry comes back from a power cut as anything
// but empty: a reset has to be durable before the zone takes a new write.
func (w Entry) Outlasts() bool {
	s := w.State()
	return w.HasData() || s == Full || s == ReadOnly || s == Offline
}

// Verify says what is wrong with w as the entry of zone i, or nil.
func (w Entry) Verify(g *Geometry, i int) error {
	low := uint64(w) & (1<<checkShift - 1)
	switch s := w.State(); {
	case uint16(w>>checkShift) != check(i, low):
		return fmt.Errorf("check %#04x does not match its contents", uint16(w>>checkShift))
	case !s.Valid():
		return fmt.Errorf("%v is no zone state", s)
	case g.Conventional(i) && s != NotWP && s != ReadOnly && s != Offline:
		return fmt.Errorf("state %v, but the zone is conventional", s)
	case g.Conventional(i) && w.Written() != 0:
		return fmt.Errorf("a write pointer, but the zone is conventional")
	case !g.Conventional(i) && s == NotWP:
		return fmt.Errorf("state %v, but the zone is sequential", s)
	case w.Written() > g.Capacity(i):
		return fmt.Errorf("write pointer at sector %d of the zone, above its capacity of %d", w.Written(), g.Capacity(i))
	case w.Written()%(uint64(g.BlockSize)>>sectorShift) != 0:
		return fmt.Errorf("write pointer at sector %d of the zone, not a whole block", w.Written())
	case s == Empty && w.Written() != 0:
		return fmt.Errorf("state empty, but its write pointer stands at sector %d", w.Written())
	}
	return nil
}
