package backend

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// Several workers on the same zones: no two appends get the same sector,
// everything that was answered for is there, and the books are straight
// afterwards: while zones are opened, closed by the device, reset, finished and
// flushed all the time.
func TestStress(t *testing.T) {
	path := imagetest.NewFast(t, disktest.StressGeometry)
	d, fs := openFaulty(t, path)
	s := disktest.NewStress(d)
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
	for n := range disktest.StressWorkers {
		c := disktest.NewClient(t, d)
		workers.Go(func() { s.Work(t, c, uint64(n), 2500) })
	}
	workers.Wait()
	close(stop)
	watchers.Wait()

	books(t, d)
	s.Verify(t, disktest.NewClient(t, d))
	before := zonesOf(d)
	kill(t, d, fs)
	d, _ = openFaulty(t, path)
	for i, z := range zonesOf(d) {
		if z != before[i] {
			t.Errorf("zone %d is %+v after a kill, was %+v", i, z, before[i])
		}
	}
	s.Disk = d
	books(t, d)
	s.Verify(t, disktest.NewClient(t, d))
	imagetest.CloseDisk(t, d, path)
	t.Logf("%d requests answered for", s.Acked)
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
	if count.Open > disktest.StressGeometry.MaxOpen || count.Active > disktest.StressGeometry.MaxActive {
		t.Errorf("%d zones are open and %d active", count.Open, count.Active)
	}
	for n := d.res.implicit.oldestLocked(); n >= 0; n = d.res.implicit.afterLocked(n) {
		listed--
	}
	if listed != 0 {
		t.Errorf("%d implicitly open zones are not listed as such", listed)
	}
}

// Resets of all zones, finishes and flushes by several workers at once, while
// others write: each gets its answer, and in the end all is consistent.
func TestStressResetAll(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, _ := openFaulty(t, path)
	var workers sync.WaitGroup
	for n := range disktest.StressWorkers {
		c := disktest.NewClient(t, d)
		workers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), 2))
			data := disktest.Pattern(byte('a'+n), 2048)
			for range 300 {
				var rs []*disk.Request
				for range 4 {
					op := []disk.Op{disk.OpAppend, disk.OpAppend, disk.OpAppend, disk.OpFinish, disk.OpResetAll, disk.OpFlush, disk.OpReset, disk.OpOpen}[rnd.IntN(8)]
					r := disktest.NewRequest(op, uint64(2+rnd.IntN(5))*128, nil)
					if op == disk.OpAppend {
						r = disktest.NewRequest(op, r.Sector, data)
					}
					rs = append(rs, r)
				}
				c.Submit(rs...)
				for range rs {
					r := c.Wait()
					if r.Err != nil && !errors.Is(r.Err, zone.ErrInvalid) && !errors.Is(r.Err, zone.ErrOpenLimit) && !errors.Is(r.Err, zone.ErrActiveLimit) {
						t.Error(r.Err)
					}
				}
			}
		})
	}
	workers.Wait()
	books(t, d)
	imagetest.CloseDisk(t, d, path)
}
