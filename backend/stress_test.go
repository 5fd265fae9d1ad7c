package backend

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

// stressed is a disk under the load of several workers, and what they were told.
type stressed struct {
	disk  disk.Disk
	clock atomic.Uint64 // orders requests that do not overlap

	mu     sync.Mutex
	landed map[int][]landing // by zone
	reset  map[int]uint64    // by zone: when the last reset had ended
	acked  int
}

// A landing is a write or append that was answered for.
type landing struct {
	sector  uint64
	sent    uint64 // when
	tag     uint64
	sectors uint64
}

const (
	stressZones   = 12
	stressKept    = 6 // zones below this one are never reset
	stressWorkers = 4
	stressDepth   = 4
)

var stressGeometry = zone.Geometry{
	CapacitySectors: stressZones * 4096, ZoneSectors: 4096, ZoneCapacitySectors: 4000,
	MaxOpen: 3, MaxActive: 9, MaxAppendSectors: 64,
}

// Several workers on the same zones: no two appends get the same sector,
// everything that was answered for is there, and the books are straight
// afterwards: while zones are opened, closed by the device, reset, finished and
// flushed all the time.
func TestStress(t *testing.T) {
	path := newFastImage(t, stressGeometry)
	d, fs := openFaulty(t, path)
	s := &stressed{disk: d, landed: make(map[int][]landing), reset: make(map[int]uint64)}
	var workers, watchers sync.WaitGroup
	stop := make(chan struct{})
	watchers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			rep, err := ReadReport(path)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range rep.Zones {
				if z := d.ReportZone(i); z.WP < z.Start || z.WP > z.Start+z.Length {
					t.Errorf("zone %d: %+v", i, z)
				}
			}
		}
	})
	for n := range stressWorkers {
		c := newClient(t, d)
		workers.Go(func() { s.work(t, c, uint64(n), 2500) })
	}
	workers.Wait()
	close(stop)
	watchers.Wait()

	books(t, d)
	s.verify(t, newClient(t, d))
	before := zonesOf(d)
	kill(t, d, fs)
	d, _ = openFaulty(t, path)
	for i, z := range zonesOf(d) {
		if z != before[i] {
			t.Errorf("zone %d is %+v after a kill, was %+v", i, z, before[i])
		}
	}
	s.disk = d
	books(t, d)
	s.verify(t, newClient(t, d))
	closeDisk(t, d, path)
	t.Logf("%d requests answered for", s.acked)
}

// work sends n requests, up to stressDepth at a time.
func (s *stressed) work(t *testing.T, c *client, worker uint64, n int) {
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
		r := c.wait()
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
		zn := rnd.IntN(stressZones)
		if rnd.IntN(2) == 0 {
			zn = rnd.IntN(3) * 4 // some zones are everybody's
		}
		start := uint64(zn) * stressGeometry.ZoneSectors
		r.Sector, r.Bytes, r.Iov, r.Stable = start, 0, nil, rnd.IntN(50) == 0
		slot.sent, slot.tag = s.clock.Add(1), worker<<56|uint64(i)
		data := slot.data[:(1+rnd.IntN(16))*disk.SectorSize]
		switch k := rnd.IntN(100); {
		case k < 70:
			r.Op = disk.OpAppend
		case k < 80:
			r.Op, r.Sector = disk.OpWrite, s.disk.ReportZone(zn).WP
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
		if isMove(r.Op) || r.Op == disk.OpRead {
			for at := 0; at < len(data); at += disk.SectorSize {
				binary.LittleEndian.PutUint64(data[at:], slot.tag)
				binary.LittleEndian.PutUint64(data[at+disk.SectorSize-8:], slot.tag+uint64(at))
			}
			r.Bytes, r.Iov = uint64(len(data)), split(data, i)
		}
		c.submit(r)
	}
	for len(free) < stressDepth {
		end()
	}
}

// ended notes what r was told.
func (s *stressed) ended(t *testing.T, r *disk.Request, sent, tag uint64) {
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
	zn := int(sector / stressGeometry.ZoneSectors)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked++
	switch r.Op {
	case disk.OpWrite, disk.OpAppend:
		s.landed[zn] = append(s.landed[zn], landing{sector: sector, sent: sent, tag: tag, sectors: r.Bytes / disk.SectorSize})
	case disk.OpReset:
		s.reset[zn] = s.clock.Add(1)
	}
}

// verify reads what has to be there: all that was sent after the last reset of
// its zone had ended. No worker is at work.
func (s *stressed) verify(t *testing.T, c *client) {
	t.Helper()
	for zn, all := range s.landed {
		z := s.disk.ReportZone(zn)
		owner := make(map[uint64]uint64)
		for _, l := range all {
			if l.sent < s.reset[zn] {
				continue
			}
			if z.State != zone.Full && l.sector+l.sectors > z.WP {
				t.Fatalf("zone %d: something landed at sector %d, but the write pointer is %d", zn, l.sector, z.WP)
			}
			got := c.read(l.sector, int(l.sectors)*disk.SectorSize)
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
		if z.State != zone.Full && !bytes.Equal(c.read(z.WP, 4096), make([]byte, 4096)) {
			t.Errorf("zone %d has data at its write pointer", zn)
		}
	}
}

// books holds what the disk keeps count of against its zones. Nothing is in
// flight.
func books(t *testing.T, d *zoned) {
	t.Helper()
	var count zone.Resources
	listed := 0
	for i := range d.zones {
		z := &d.zones[i]
		z.mu.Lock()
		_ = count.Move(zone.Empty, z.state)
		if z.state == zone.ImpOpen {
			listed++
		}
		if w := zone.Pack(i, z.state, z.done); zone.Entry(z.word.Load()) != w || !z.flying.emptyLocked() || z.wait.Head != nil || z.next != z.done {
			t.Errorf("zone %d: %v, %d of %d sectors, published as %#x", i, z.state, z.done, z.next, z.word.Load())
		}
		z.mu.Unlock()
	}
	d.res.mu.Lock()
	defer d.res.mu.Unlock()
	if d.res.Open != count.Open || d.res.Active != count.Active {
		t.Errorf("%d zones are counted as open and %d as active, but %d and %d are", d.res.Open, d.res.Active, count.Open, count.Active)
	}
	if count.Open > stressGeometry.MaxOpen || count.Active > stressGeometry.MaxActive {
		t.Errorf("%d zones are open and %d active", count.Open, count.Active)
	}
	for n := d.res.oldest; n != 0; n = d.zones[n-1].newer {
		listed--
	}
	if listed != 0 {
		t.Errorf("%d implicitly open zones are not listed as such", listed)
	}
}

// Resets of all zones, finishes and flushes by several workers at once, while
// others write: each gets its answer, and in the end all is consistent.
func TestStressResetAll(t *testing.T) {
	path := newFastImage(t, small)
	d, _ := openFaulty(t, path)
	var workers sync.WaitGroup
	for n := range stressWorkers {
		c := newClient(t, d)
		workers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), 2))
			data := pattern(byte('a'+n), 2048)
			for range 300 {
				var rs []*disk.Request
				for range 4 {
					op := []disk.Op{disk.OpAppend, disk.OpAppend, disk.OpAppend, disk.OpFinish, disk.OpResetAll, disk.OpFlush, disk.OpReset, disk.OpOpen}[rnd.IntN(8)]
					r := request(op, uint64(2+rnd.IntN(5))*128, nil)
					if op == disk.OpAppend {
						r = request(op, r.Sector, data)
					}
					rs = append(rs, r)
				}
				c.submit(rs...)
				for range rs {
					r := c.wait()
					if r.Err != nil && !errors.Is(r.Err, zone.ErrInvalid) && !errors.Is(r.Err, zone.ErrOpenLimit) && !errors.Is(r.Err, zone.ErrActiveLimit) {
						t.Error(r.Err)
					}
				}
			}
		})
	}
	workers.Wait()
	books(t, d)
	closeDisk(t, d, path)
}
