package backend

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/plain"
)

func isSync(op *engine.Op) bool { return op.Code == engine.Fdatasync }

// Queues flush at the same time what the kernel has lost. It says so once, and none
// of them is answered with success, nor any that comes later.
func TestPlainFlushesBesideAFailedOne(t *testing.T) {
	d := openDisk(t, newPlain(t, 1<<20))
	defer d.Close()
	w := new(writeback)
	a, ea := disktest.HeldClient(t, d, isSync)
	b, eb := disktest.HeldClient(t, d, isSync)
	a.WantError(a.Write(0, make([]byte, 512)), nil)
	w.fail()
	fa, fb, fc := disktest.NewRequest(disk.OpFlush, 0, nil), disktest.NewRequest(disk.OpFlush, 0, nil), disktest.NewRequest(disk.OpFlush, 0, nil)
	a.Submit(fa)
	b.Submit(fb, fc)
	tell(a, ea, w)
	a.WantAllDone(fa)
	tell(b, eb, w)
	b.WantAllDone(fb, fc)
	for _, r := range []*disk.Request{fa, fb, fc} {
		a.WantError(r.Err, disk.ErrIO)
	}
	b.WantError(b.Flush(), disk.ErrIO)
}

// tell ends what e holds as the kernel would.
func tell(c *disktest.Client, e *disktest.HeldEngine, w *writeback) {
	c.Lane.Start()
	for len(e.Held) > 0 {
		e.Release(0, w.fault(e.Held[0]))
	}
}

// A sync that is under way may have begun before what a flush has to cover was
// written: the flush waits for the next one, with all that wait.
func TestPlainFlushesShareTheNextSync(t *testing.T) {
	d := openDisk(t, newPlain(t, 1<<20))
	c, e := disktest.HeldClient(t, d, isSync)
	other, eo := disktest.HeldClient(t, d, isSync)
	held := func(here, there int) {
		t.Helper()
		c.WantNothingDone("it waits for a sync")
		other.WantNothingDone("it waits for a sync")
		if len(e.Held) != here || len(eo.Held) != there {
			t.Fatalf("%d and %d syncs are under way, want %d and %d", len(e.Held), len(eo.Held), here, there)
		}
	}
	var rs []*disk.Request
	for range 6 {
		rs = append(rs, disktest.NewRequest(disk.OpFlush, 0, nil))
	}
	c.Submit(rs[0])
	held(1, 0)
	c.WantError(c.Write(0, make([]byte, 512)), nil)
	other.Submit(rs[1], rs[2])
	c.Submit(rs[3])
	held(1, 0)
	e.Release(0, disktest.OpFault{})
	c.WantAllDone(rs[0])
	held(0, 1) // one, for three
	c.Submit(rs[4])
	zeroes := ranges(disk.OpWriteZeroes, disk.Range{Sectors: 8})
	zeroes.Stable = true
	other.Submit(rs[5], zeroes)
	held(0, 1)
	eo.Release(0, disktest.OpFault{})
	other.WantAllDone(rs[1], rs[2])
	c.WantAllDone(rs[3])
	held(1, 0)
	e.Release(0, disktest.OpFault{})
	c.WantAllDone(rs[4])
	other.WantAllDone(rs[5], zeroes)
	held(0, 0)
	for _, r := range append(rs, zeroes) {
		c.WantError(r.Err, nil)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A sync that ends well says nothing once another has failed.
func TestPlainLooksBeforeItAnswers(t *testing.T) {
	p := openDisk(t, newPlain(t, 1<<20)).(*plain.Disk)
	defer p.Close()
	c, e := disktest.HeldClient(t, p, isSync)
	r := disktest.NewRequest(disk.OpFlush, 0, nil)
	c.Submit(r)
	err := error(unix.EIO)
	p.Lose(err)
	e.Release(0, disktest.OpFault{})
	c.WantAllDone(r)
	c.WantError(r.Err, disk.ErrIO)
}

// Stable writes at the same time, none of which reaches the disk: none is answered
// with success, on an ordinary disk or in a conventional zone.
func TestStableWritesBesideAFailedOne(t *testing.T) {
	w := new(writeback)
	pl := openDisk(t, newPlain(t, 1<<20))
	defer pl.Close()
	image, fs := openFaulty(t, imagetest.NewFast(t, disktest.Small))
	defer image.Close()
	w.under(fs)
	for _, d := range []disk.Disk{pl, image} {
		c, e := disktest.HeldClient(t, d, nil)
		w.fail()
		e.Fault = w.fault
		var rs []*disk.Request
		for i := range uint64(4) {
			r := disktest.NewRequest(disk.OpWrite, 8*i, make([]byte, 4096))
			r.Stable = true
			rs = append(rs, r)
		}
		c.Submit(rs...)
		c.WantAllDone(rs...)
		for i, r := range rs {
			if r.Err == nil {
				t.Errorf("%T: write %d is on the disk, it says", d, i)
			}
		}
		c.WantError(c.Flush(), disk.ErrIO)
	}
}

// Queues that flush and write through all the time have all their answers, with
// every engine.
func TestPlainSyncsFromEverywhere(t *testing.T) {
	for _, kind := range engine.Kinds {
		d := openDisk(t, newPlain(t, 1<<20))
		var workers sync.WaitGroup
		for w := range uint64(3) {
			workers.Go(disktest.AsWorker(t, d, kind, func(c *disktest.Client) {
				rs := []*disk.Request{disktest.NewRequest(disk.OpFlush, 0, nil), disktest.NewRequest(disk.OpWrite, 8*w, make([]byte, 4096)), disktest.NewRequest(disk.OpFlush, 0, nil)}
				rs[1].Stable = true
				for range 50 {
					c.Submit(rs...)
					for range rs {
						if err := c.Wait().Err; err != nil {
							t.Error(err)
						}
					}
				}
			}))
		}
		workers.Wait()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
