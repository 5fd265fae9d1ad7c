package bench

import (
	"sort"

	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A work chooses the sectors of one queue's requests.
type work interface {
	// next fills in r. It returns false if no request can be sent before another one is
	// answered; then some are in flight.
	next(r *blkclient.Request) bool
	// done is called when r was answered with success.
	done(r *blkclient.Request)
}

// An extent is a sequence of adjacent blocks of the size of a request.
type extent struct {
	sector uint64
	before uint64 // blocks in the extents before it
}

// A spread reads or writes blocks in extents, in order or anywhere.
type spread struct {
	typ          uint32
	bytes        int
	blockSectors uint64
	extents      []extent
	blocks       uint64
	random       bool
	at           uint64 // next block, in order
	state        uint64 // of random numbers
}

func (s *spread) next(r *blkclient.Request) bool {
	r.Type, r.Sector = s.typ, s.sector()
	r.SetLen(s.bytes)
	return true
}

// sector is the sector of the next block.
func (s *spread) sector() uint64 {
	block := s.at
	if s.random {
		block = s.number(s.blocks)
	} else if s.at++; s.at == s.blocks {
		s.at = 0
	}
	e := &s.extents[0]
	if len(s.extents) > 1 {
		i := sort.Search(len(s.extents), func(i int) bool { return s.extents[i].before > block })
		e = &s.extents[i-1]
	}
	return e.sector + (block-e.before)*s.blockSectors
}

func (s *spread) done(*blkclient.Request) {}

// number is a random number below n: Marsaglia's xorshift64*, which is random enough, and
// takes two nanoseconds.
func (s *spread) number(n uint64) uint64 {
	s.state ^= s.state >> 12
	s.state ^= s.state << 25
	s.state ^= s.state >> 27
	return (s.state * 0x2545f4914f6cdd1d >> 11) % n
}

// part is the share of queue i of n: in order, each queue has a range of its own; in random
// order, each has its own random numbers.
func (s spread) part(i, n int) *spread {
	s.state = uint64(i)*0x9e3779b97f4a7c15 + 0x853c49e6748fea9b
	s.at = s.blocks / uint64(n) * uint64(i)
	return &s
}

// reports requests zone reports, from the first zone to the last and again.
type reports struct {
	bytes       int
	zoneSectors uint64
	capacity    uint64 // sectors
	sector      uint64
}

func (w *reports) next(r *blkclient.Request) bool {
	r.Type, r.Sector = driver.TypeZoneReport, w.sector
	r.SetLen(w.bytes)
	room := uint64(w.bytes-driver.ReportHeaderBytes) / driver.ZoneDescriptorBytes
	if w.sector += room * w.zoneSectors; w.sector >= w.capacity {
		w.sector = 0
	}
	return true
}

func (w *reports) done(*blkclient.Request) {}
