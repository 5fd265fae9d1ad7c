package drive

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// What a report says of a zone is old when somebody has worked on the zone since
// the drive was asked: no write pointer moves back, and no state changes back.
func TestReportComesLate(t *testing.T) {
	for name, tt := range map[string]struct {
		since   func(*disktest.Client)
		state   zone.State
		written uint64
	}{
		"a write":        {func(c *disktest.Client) { c.WantError(c.Write(264, disktest.Pattern('b', 4096)), nil) }, zone.ImpOpen, 16},
		"a close":        {func(c *disktest.Client) { c.WantError(c.ZoneOp(disk.OpClose, 256), nil) }, zone.Closed, 8},
		"a reset":        {func(c *disktest.Client) { c.WantError(c.ZoneOp(disk.OpReset, 256), nil) }, zone.Empty, 0},
		"a reset of all": {func(c *disktest.Client) { c.WantError(c.ZoneOp(disk.OpResetAll, 256), nil) }, zone.Empty, 0},
		"a reset and write": {func(c *disktest.Client) {
			c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
			c.WantError(c.Write(256, disktest.Pattern('b', 4096)), nil)
		}, zone.ImpOpen, 8},
		"nothing":      {func(*disktest.Client) {}, zone.ImpOpen, 8},
		"another zone": {func(c *disktest.Client) { c.WantError(c.Write(384, disktest.Pattern('b', 4096)), nil) }, zone.ImpOpen, 8},
	} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDrive(t, disktest.Small, nil, nil)
			c := disktest.NewClient(t, d)
			c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
			late, e := d.held(t, func(op *engine.Op) bool { return op.Code == engine.ZoneReport })
			late.Submit(&disk.Request{Op: disk.OpReport, Bytes: uint64(len(d.zones))})
			op := e.kept[0]
			e.kept = nil
			d.dev.do(op) // the drive has answered, and nobody has looked
			tt.since(c)
			d.wantState(c.T, 2, tt.state, tt.written)
			e.done = append(e.done, op)
			late.WantError(late.Wait().Err, nil)
			d.wantState(c.T, 2, tt.state, tt.written)
			c.WantZone(2, tt.state, tt.written)
		})
	}
}

// Open zones that the drive closes to make room show in the next report, also
// when it was a request of another zone that needed it.
func TestClosesByItself(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil) // three may be open
	c := disktest.NewClient(t, d)
	for i := uint64(2); i < 6; i++ {
		c.WantError(c.Write(i*128, disktest.Pattern('a', 4096)), nil)
	}
	d.wantState(c.T, 2, zone.ImpOpen, 8) // nobody has told
	c.WantZone(2, zone.Closed, 8)
	c.WantError(c.ZoneOp(disk.OpOpen, 384), nil)
	c.WantError(c.Write(256+8, disktest.Pattern('a', 4096)), nil)
	c.WantZone(4, zone.Closed, 8)
	c.WantZone(3, zone.ExpOpen, 8)
	c.WantError(c.ZoneOp(disk.OpClose, 512), nil) // is closed already
}

// Several workers on the same zones, while others ask for reports: everything
// that was answered for is there, no two appends get the same sector, and in the
// end each zone is what the drive has.
func TestStress(t *testing.T) {
	d := newFakeDrive(t, disktest.StressGeometry, nil, nil)
	d.maxBatch = 48 << disk.SectorShift
	s := disktest.NewStress(d.Drive)
	var workers, watchers sync.WaitGroup
	var stop atomic.Bool
	watcher := disktest.NewClientOn(t, d.Drive, d.TestEngine)
	watchers.Go(func() {
		for !stop.Load() {
			if err := watcher.Do(&disk.Request{Op: disk.OpReport, Bytes: disktest.StressZones}); err != nil {
				t.Error(err)
			}
		}
	})
	for n := range disktest.StressWorkers {
		c := disktest.NewClientOn(t, d.Drive, func(func()) (engine.Engine, error) {
			return &fakeEngine{dev: d.dev, rnd: rand.New(rand.NewPCG(uint64(n), 3))}, nil
		})
		workers.Go(func() { s.Work(t, c, uint64(n), 150) })
	}
	workers.Wait()
	stop.Store(true)
	watchers.Wait()
	wantDrive(t, d)
	s.Verify(t, disktest.NewClient(t, d))
	wantDrive(t, d)
	t.Logf("%d requests answered for in %d writes, %d reports", s.Acked, len(d.dev.writes()), d.dev.count(engine.ZoneReport))
}

// wantDrive holds what guests see of all zones against the drive. Nothing is in
// flight.
func wantDrive(t disktest.TB, d *fakeDrive) {
	t.Helper()
	if err := d.refresh(); err != nil {
		t.Error(err)
	}
	for i := range d.zones {
		got, of := d.Drive.ReportZone(i), d.dev.m.Descriptor(i+int(d.first>>d.rules.Shift))
		wp := of.WP - d.first
		if zone.State(of.State) == zone.ReadOnly {
			wp = got.WP
		}
		if got.State != zone.State(of.State) || got.WP != wp || got.Start != of.Start-d.first || got.Length != of.Length || got.Capacity != of.Capacity {
			t.Errorf("zone %d is %+v, of the drive %+v", i, got, of)
		}
		z := &d.zones[i]
		if z.busy || z.stale || z.line.Head != nil {
			t.Errorf("zone %d: at work %v, unknown %v, in line %v", i, z.busy, z.stale, z.line.Head)
		}
	}
}

// Resets of all zones, finishes and flushes by several workers at once, while
// others write and some of it fails: nobody waits for ever, and in the end each
// zone is what the drive has.
func TestStressResetAll(t *testing.T) {
	for name, w := range map[string]*disk.Window{"drive": nil, "window": {First: 2, Last: 12}} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDrive(t, disktest.Small, nil, w)
			faults := rand.New(rand.NewPCG(1, 4))
			d.dev.fault = func(op *engine.Op) (int64, error) { return randomFault(faults, op) }
			var workers sync.WaitGroup
			for n := range disktest.StressWorkers {
				c := disktest.NewClientOn(t, d.Drive, func(func()) (engine.Engine, error) {
					return &fakeEngine{dev: d.dev, rnd: rand.New(rand.NewPCG(uint64(n), 5))}, nil
				})
				workers.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(n), 2))
					data := disktest.Pattern(byte('a'+n), 2048)
					for range 150 {
						var rs []*disk.Request
						for range 6 {
							op := []disk.Op{disk.OpAppend, disk.OpAppend, disk.OpAppend, disk.OpWrite, disk.OpFinish, disk.OpResetAll, disk.OpFlush, disk.OpReset, disk.OpOpen, disk.OpClose, disk.OpReport}[rnd.IntN(11)]
							r := disktest.NewRequest(op, uint64(2+rnd.IntN(5))*128, nil)
							switch op {
							case disk.OpAppend, disk.OpWrite:
								r = disktest.NewRequest(op, r.Sector, data)
							case disk.OpReport:
								r.Bytes = 3
							}
							r.Stable = rnd.IntN(8) == 0
							rs = append(rs, r)
						}
						c.Submit(rs...)
						for range rs {
							if err := c.Wait().Err; err != nil && !mayFail(err) {
								t.Error(err)
							}
						}
					}
				})
			}
			workers.Wait()
			d.dev.fault = nil
			wantDrive(t, d)
		})
	}
}

// mayFail says whether err is one that a request may get from a drive that fails.
func mayFail(err error) bool {
	for _, e := range []error{disk.ErrIO, zone.ErrInvalid, zone.ErrUnaligned, zone.ErrOpenLimit, zone.ErrActiveLimit} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
