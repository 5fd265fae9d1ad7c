package drive

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// randomFault makes one Op in six fail, some of it being carried out all the same.
func randomFault(rnd *rand.Rand, op *engine.Op) (landed int64, err error) {
	if rnd.IntN(6) != 0 {
		return 0, nil
	}
	errs := []error{unix.EIO, unix.EREMOTEIO, unix.ENODATA, unix.EOVERFLOW, unix.ETOOMANYREFS, unix.ENXIO}
	if op.Code != engine.Writev {
		return op.Len * int64(rnd.IntN(2)), errs[rnd.IntN(len(errs))]
	}
	return rnd.Int64N(op.Len>>12+1) << 12, errs[rnd.IntN(len(errs))]
}

// Random batches on several lanes, of which some I/O fails, is done in part and
// in any order, on drives whose zones go out of service and come back. After each
// batch the zones are what the drive has, and what was answered for is there.
func TestAgainstDevice(t *testing.T) {
	requests, faults := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := newDriveScript(t)
		t.Repeat(map[string]func(*rapid.T){
			"batch":               func(t *rapid.T) { s.batch(t, false) },
			"batch with faults":   func(t *rapid.T) { s.batch(t, true) },
			"batch with faults 2": func(t *rapid.T) { s.batch(t, true) },
			"zone fails or comes back": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "not now") != 0 {
					return
				}
				i := rapid.IntRange(s.g.ConventionalZones, len(s.d.dev.m.Zones)-1).Draw(t, "zone")
				to := rapid.SampledFrom([]zone.State{zone.ReadOnly, zone.Offline, zone.Empty}).Draw(t, "state")
				if s.d.dev.set(i, to); to == zone.Empty {
					s.forget(i)
				}
			},
		})
		requests, faults = requests+s.requests, faults+s.faults
		s.close()
	})
	t.Logf("%d requests, %d faults", requests, faults)
}

type driveScript struct {
	t       disktest.TB
	g       zone.Geometry
	d       *fakeDrive
	lanes   []*disktest.Client
	rnd     *rand.Rand
	closers []func()
	first   int // zone of the drive
	// acked is what was answered for, by zone of the drive and sector.
	acked            map[int]map[uint64][]byte
	requests, faults int
}

func (s *driveScript) Helper()                   { s.t.Helper() }
func (s *driveScript) Error(a ...any)            { s.t.Helper(); s.t.Fatal(a...) }
func (s *driveScript) Errorf(f string, a ...any) { s.t.Helper(); s.t.Fatalf(f, a...) }
func (s *driveScript) Fatal(a ...any)            { s.t.Helper(); s.t.Fatal(a...) }
func (s *driveScript) Fatalf(f string, a ...any) { s.t.Helper(); s.t.Fatalf(f, a...) }
func (s *driveScript) Cleanup(f func())          { s.closers = append(s.closers, f) }

func newDriveScript(t *rapid.T) *driveScript {
	s := &driveScript{t: t, g: disktest.DrawGeometry(t), acked: make(map[int]map[uint64][]byte)}
	t.Cleanup(s.close)
	s.rnd = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	w := &disk.Window{First: rapid.IntRange(0, s.g.Zones()-1).Draw(t, "first")}
	w.Last = rapid.IntRange(w.First, s.g.Zones()-1).Draw(t, "last")
	s.first = w.First
	s.d = newFakeDrive(s, s.g, nil, w)
	if rapid.Bool().Draw(t, "small parts") {
		s.d.partBytes, s.d.partPages = 4096, 2
	}
	for range 3 {
		s.lanes = append(s.lanes, disktest.NewClientOn(s, s.d.Drive, func(func()) (engine.Engine, error) {
			return &fakeEngine{dev: s.d.dev, rnd: s.rnd}, nil
		}))
	}
	return s
}

// close ends all that the script has open, last things first.
func (s *driveScript) close() {
	for len(s.closers) > 0 {
		last := len(s.closers) - 1
		f := s.closers[last]
		s.closers = s.closers[:last]
		f()
	}
}

// forget drops what is known of a zone whose data may be gone.
func (s *driveScript) forget(i int) { delete(s.acked, i) }

// batch sends requests, all at once, and holds what comes of them against the
// drive.
func (s *driveScript) batch(t *rapid.T, faulty bool) {
	struck := 0
	if faulty {
		s.d.dev.fault = func(op *engine.Op) (int64, error) {
			landed, err := randomFault(s.rnd, op)
			if err != nil {
				struck++
			}
			return landed, err
		}
	}
	n := rapid.IntRange(1, 16).Draw(t, "requests")
	about := rapid.IntRange(0, len(s.d.zones)-1).Draw(t, "zone")
	var rs []*disk.Request
	lost := make(map[int]bool)
	for i := range n {
		zn := about
		if s.rnd.IntN(4) == 0 {
			zn = s.rnd.IntN(len(s.d.zones))
		}
		r := s.request(zn)
		if r.Op == disk.OpReset {
			lost[s.first+zn] = true
		}
		for z := 0; r.Op == disk.OpResetAll && z < len(s.d.zones); z++ {
			lost[s.first+z] = true
		}
		rs = append(rs, r)
		c := s.lanes[s.rnd.IntN(len(s.lanes))]
		c.Lane.Submit(s.d.Drive, r)
		if i%3 == 0 {
			c.Lane.Start()
		}
	}
	for left := n; left > 0; {
		before := left
		for _, c := range s.lanes {
			for c.Lane.Done() != nil {
				left--
			}
		}
		if left == before && s.idle() {
			s.Fatalf("%d requests of %d never end", left, n)
		}
	}
	s.requests, s.faults = s.requests+n, s.faults+struck
	s.d.dev.fault = nil
	for zn := range lost {
		s.forget(zn)
	}
	for _, r := range rs {
		switch {
		case r.Err != nil && !mayFail(r.Err) && !errors.Is(r.Err, disk.ErrRange):
			s.Errorf("%v", r.Err)
		case r.Err == nil && (r.Op == disk.OpAppend || r.Op == disk.OpWrite) && r.Bytes > 0:
			s.ack(r, lost)
		}
	}
	wantDrive(s, s.d)
	s.verify()
}

// idle says whether no lane has anything to do.
func (s *driveScript) idle() bool {
	for _, c := range s.lanes {
		if e := c.Lane.Engine().(*fakeEngine); c.Lane.Mailed() || len(e.staged)+len(e.queued)+len(e.done) > 0 {
			return false
		}
	}
	return true
}

func (s *driveScript) request(zn int) *disk.Request {
	z := s.d.Drive.ReportZone(zn)
	block := uint64(s.g.BlockSize)
	op := []disk.Op{disk.OpAppend, disk.OpAppend, disk.OpAppend, disk.OpAppend, disk.OpWrite, disk.OpWrite, disk.OpWrite, disk.OpRead, disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset, disk.OpFlush, disk.OpReport, disk.OpResetAll}[s.rnd.IntN(15)]
	if op == disk.OpResetAll && s.rnd.IntN(3) != 0 {
		op = disk.OpAppend
	}
	r := &disk.Request{Op: op, Sector: z.Start, Stable: s.rnd.IntN(8) == 0}
	switch op {
	case disk.OpReport:
		r.Bytes = uint64(1 + s.rnd.IntN(len(s.d.zones)-zn))
	case disk.OpWrite, disk.OpRead, disk.OpAppend:
		r.Bytes = uint64(s.rnd.IntN(4)) * block
		if op == disk.OpWrite && z.Type != zone.Conventional {
			r.Sector = z.WP + uint64(s.rnd.IntN(3))*block/disk.SectorSize*uint64(s.rnd.IntN(4))
		}
		odd := s.rnd.IntN(2) * 3
		data := pageAligned(int(r.Bytes) + odd)[odd:]
		for i := range data {
			data[i] = byte(s.rnd.Uint32())
		}
		if len(data) > 0 {
			r.Iov = disktest.Split(data, s.rnd.IntN(4))
		}
	}
	return r
}

// ack notes what r, which was good, has written.
func (s *driveScript) ack(r *disk.Request, lost map[int]bool) {
	sector := r.Sector
	if r.Op == disk.OpAppend {
		sector = r.AppendSector
	}
	zn := s.first + int(sector/s.g.ZoneSectors)
	if zn < s.g.ConventionalZones || lost[zn] {
		return
	}
	if s.acked[zn] == nil {
		s.acked[zn] = make(map[uint64][]byte)
	}
	data := disktest.BytesOf(r)
	for n := uint64(0); n < r.Bytes; n += disk.SectorSize {
		at := sector + n/disk.SectorSize
		if s.acked[zn][at] != nil {
			s.Errorf("sector %d was given away twice", at)
		}
		s.acked[zn][at] = data[n:][:disk.SectorSize]
	}
}

// verify reads what has to be there.
func (s *driveScript) verify() {
	for zn, sectors := range s.acked {
		_, z := s.d.dev.m.ZoneOf(uint64(zn) * s.g.ZoneSectors)
		if z.State == zonemodel.Offline {
			continue
		}
		start := uint64(zn-s.first) * s.g.ZoneSectors
		got := s.lanes[0].Read(start, int(z.End-z.Start)*disk.SectorSize)
		for at, want := range sectors {
			if !bytes.Equal(got[(at-start)*disk.SectorSize:][:disk.SectorSize], want) {
				s.Errorf("zone %d of the drive (%v): sector %d is not what was written", zn, z.State, at-start)
			}
		}
	}
}
