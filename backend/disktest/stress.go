package disktest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// A Stress is a disk under the load of several workers, and the answers that they got.
type Stress struct {
	Disk  disk.Disk
	clock atomic.Uint64 // orders requests that do not overlap

	mu     sync.Mutex
	landed map[int][]landing // by zone
	reset  map[int]uint64    // by zone: when the last reset had ended
	Acked  int               // requests that were answered with success
}

// A landing is a write or append that was answered for.
type landing struct {
	sector  uint64
	sent    uint64 // when
	tag     uint64
	sectors uint64
}

const (
	StressZones   = 12 // of StressGeometry
	stressKept    = 6  // zones below this one are never reset
	StressWorkers = 4  // how many are to call Work at once
	stressDepth   = 4
)

// StressGeometry is the disk that Stress works on.
var StressGeometry = zone.Geometry{
	CapacitySectors: StressZones * 4096, ZoneSectors: 4096, ZoneCapacitySectors: 4000,
	MaxOpen: 3, MaxActive: 9, MaxAppendSectors: 64,
}

// NewStress returns a Stress of d, a disk of StressGeometry with all zones empty.
func NewStress(d disk.Disk) *Stress {
	return &Stress{Disk: d, landed: make(map[int][]landing), reset: make(map[int]uint64)}
}

// Work sends n requests, up to stressDepth at a time.
func (s *Stress) Work(t *testing.T, c *Client, worker uint64, n int) {
	rnd := rand.New(rand.NewPCG(worker, 1))
	var slots [stressDepth]struct {
		r    disk.Request
		sent uint64
		tag  uint64
		data []byte
	}
	var free []uint32
	for i := range slots {
		slots[i].data = make([]byte, 64*disk.SectorSize)
		slots[i].r.Tag = uint32(i)
		free = append(free, uint32(i))
	}
	end := func() {
		r := c.Wait()
		slot := &slots[r.Tag]
		s.ended(t, r, slot.sent, slot.tag)
		free = append(free, r.Tag)
	}
	for i := range n {
		if len(free) == 0 {
			end()
		}
		slot := &slots[free[len(free)-1]]
		free = free[:len(free)-1]
		r := &slot.r
		zn := rnd.IntN(StressZones)
		if rnd.IntN(2) == 0 {
			zn = rnd.IntN(3) * 4 // some zones are everybody's
		}
		start := uint64(zn) * StressGeometry.ZoneSectors
		r.Sector, r.Bytes, r.Iov, r.Stable = start, 0, nil, rnd.IntN(50) == 0
		slot.sent, slot.tag = s.clock.Add(1), worker<<56|uint64(i)
		data := slot.data[:(1+rnd.IntN(16))*disk.SectorSize]
		switch k := rnd.IntN(100); {
		case k < 70:
			r.Op = disk.OpAppend
		case k < 80:
			r.Op, r.Sector = disk.OpWrite, s.Disk.ReportZone(zn).WP
		case k < 85:
			r.Op = disk.OpRead
		case k < 88:
			r.Op = disk.OpFlush
		case k < 91:
			r.Op = disk.OpOpen
		case k < 96:
			r.Op = disk.OpClose
		case zn < stressKept:
			r.Op = disk.OpAppend
		case k < 99:
			r.Op = disk.OpReset
		default:
			r.Op = disk.OpFinish
		}
		if IsWriteOp(r.Op) || r.Op == disk.OpRead {
			for at := 0; at < len(data); at += disk.SectorSize {
				binary.LittleEndian.PutUint64(data[at:], slot.tag)
				binary.LittleEndian.PutUint64(data[at+disk.SectorSize-8:], slot.tag+uint64(at))
			}
			r.Bytes, r.Iov = uint64(len(data)), Split(data, i)
		}
		c.Submit(r)
	}
	for len(free) < stressDepth {
		end()
	}
}

// ended notes what r was told.
func (s *Stress) ended(t *testing.T, r *disk.Request, sent, tag uint64) {
	switch {
	case r.Err == nil:
	case errors.Is(r.Err, zone.ErrInvalid), errors.Is(r.Err, zone.ErrOpenLimit), errors.Is(r.Err, zone.ErrActiveLimit),
		r.Op == disk.OpWrite && (errors.Is(r.Err, zone.ErrUnaligned) || errors.Is(r.Err, disk.ErrRange)):
		return
	default:
		t.Errorf("%v", r.Err)
		return
	}
	sector := r.Sector
	if r.Op == disk.OpAppend {
		sector = r.AppendSector
	}
	zn := int(sector / StressGeometry.ZoneSectors)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Acked++
	switch r.Op {
	case disk.OpWrite, disk.OpAppend:
		s.landed[zn] = append(s.landed[zn], landing{sector: sector, sent: sent, tag: tag, sectors: r.Bytes / disk.SectorSize})
	case disk.OpReset:
		s.reset[zn] = s.clock.Add(1)
	}
}

// Verify reads what has to be there: all that was sent after the last reset of
// its zone had ended. No worker is at work.
func (s *Stress) Verify(t *testing.T, c *Client) {
	t.Helper()
	for zn, all := range s.landed {
		z := s.Disk.ReportZone(zn)
		owner := make(map[uint64]uint64)
		for _, l := range all {
			if l.sent < s.reset[zn] {
				continue
			}
			if z.State != zone.Full && l.sector+l.sectors > z.WP {
				t.Fatalf("zone %d: something landed at sector %d, but the write pointer is %d", zn, l.sector, z.WP)
			}
			got := c.Read(l.sector, int(l.sectors)*disk.SectorSize)
			for i := range l.sectors {
				if other, taken := owner[l.sector+i]; taken {
					t.Fatalf("sector %d was given to %#x and %#x", l.sector+i, l.tag, other)
				}
				owner[l.sector+i] = l.tag
				at := got[i*disk.SectorSize:][:disk.SectorSize]
				if binary.LittleEndian.Uint64(at) != l.tag || binary.LittleEndian.Uint64(at[disk.SectorSize-8:]) != l.tag+i*disk.SectorSize {
					t.Fatalf("sector %d holds %#x, want %#x", l.sector+i, binary.LittleEndian.Uint64(at), l.tag)
				}
			}
		}
		// Zones that were never reset have no sector below the pointer that
		// nobody was given.
		if zn < stressKept && z.State != zone.Full && uint64(len(owner)) != z.WP-z.Start {
			t.Errorf("zone %d: %d sectors were written, but its write pointer is at %d", zn, len(owner), z.WP-z.Start)
		}
		if z.State != zone.Full && !bytes.Equal(c.Read(z.WP, 4096), make([]byte, 4096)) {
			t.Errorf("zone %d has data at its write pointer", zn)
		}
	}
}
