package backend

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/plain"
)

func isSync(op *engine.Op) bool { return op.Code == engine.Fdatasync }

// allEnded waits for these requests, in any order.
func (c *client) allEnded(rs ...*disk.Request) {
	c.t.Helper()
	open := map[*disk.Request]bool{}
	for _, r := range rs {
		open[r] = true
	}
	for range rs {
		r := c.wait()
		if !open[r] {
			c.t.Fatalf("another request ended: %v", r.Op)
		}
		delete(open, r)
	}
}

// Queues flush at the same time what the kernel has lost. It says so once, and none
// of them is answered with success, nor any that comes later.
func TestPlainFlushesBesideAFailedOne(t *testing.T) {
	d := openDisk(t, newPlain(t, 1<<20))
	defer d.Close()
	w := new(writeback)
	a, ea := heldClient(t, d, isSync)
	b, eb := heldClient(t, d, isSync)
	a.want(a.write(0, make([]byte, 512)), nil)
	w.fail()
	fa, fb, fc := request(disk.OpFlush, 0, nil), request(disk.OpFlush, 0, nil), request(disk.OpFlush, 0, nil)
	a.submit(fa)
	b.submit(fb, fc)
	a.tell(ea, w)
	a.allEnded(fa)
	b.tell(eb, w)
	b.allEnded(fb, fc)
	for _, r := range []*disk.Request{fa, fb, fc} {
		a.want(r.Err, disk.ErrIO)
	}
	b.want(b.flush(), disk.ErrIO)
}

// tell ends what e holds as the kernel would.
func (c *client) tell(e *heldEngine, w *writeback) {
	c.lane.Start()
	for len(e.held) > 0 {
		e.release(0, w.fault(e.held[0]))
	}
}

// A sync that is under way may have begun before what a flush has to cover was
// written: the flush waits for the next one, with all that wait.
func TestPlainFlushesShareTheNextSync(t *testing.T) {
	d := openDisk(t, newPlain(t, 1<<20))
	c, e := heldClient(t, d, isSync)
	other, eo := heldClient(t, d, isSync)
	held := func(here, there int) {
		t.Helper()
		c.quiet("it waits for a sync")
		other.quiet("it waits for a sync")
		if len(e.held) != here || len(eo.held) != there {
			t.Fatalf("%d and %d syncs are under way, want %d and %d", len(e.held), len(eo.held), here, there)
		}
	}
	var rs []*disk.Request
	for range 6 {
		rs = append(rs, request(disk.OpFlush, 0, nil))
	}
	c.submit(rs[0])
	held(1, 0)
	c.want(c.write(0, make([]byte, 512)), nil)
	other.submit(rs[1], rs[2])
	c.submit(rs[3])
	held(1, 0)
	e.release(0, fault{})
	c.allEnded(rs[0])
	held(0, 1) // one, for three
	c.submit(rs[4])
	zeroes := ranges(disk.OpWriteZeroes, disk.Range{Sectors: 8})
	zeroes.Stable = true
	other.submit(rs[5], zeroes)
	held(0, 1)
	eo.release(0, fault{})
	other.allEnded(rs[1], rs[2])
	c.allEnded(rs[3])
	held(1, 0)
	e.release(0, fault{})
	c.allEnded(rs[4])
	other.allEnded(rs[5], zeroes)
	held(0, 0)
	for _, r := range append(rs, zeroes) {
		c.want(r.Err, nil)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A sync that ends well says nothing once another has failed.
func TestPlainLooksBeforeItAnswers(t *testing.T) {
	p := openDisk(t, newPlain(t, 1<<20)).(*plain.Disk)
	defer p.Close()
	c, e := heldClient(t, p, isSync)
	r := request(disk.OpFlush, 0, nil)
	c.submit(r)
	err := error(unix.EIO)
	p.Lose(err)
	e.release(0, fault{})
	c.allEnded(r)
	c.want(r.Err, disk.ErrIO)
}

// Stable writes at the same time, none of which reaches the disk: none is answered
// with success, on an ordinary disk or in a conventional zone.
func TestStableWritesBesideAFailedOne(t *testing.T) {
	w := new(writeback)
	pl := openDisk(t, newPlain(t, 1<<20))
	defer pl.Close()
	image, fs := openFaulty(t, newFastImage(t, small))
	defer image.Close()
	w.under(fs)
	for _, d := range []disk.Disk{pl, image} {
		c, e := heldClient(t, d, nil)
		w.fail()
		e.fault = w.fault
		var rs []*disk.Request
		for i := range uint64(4) {
			r := request(disk.OpWrite, 8*i, make([]byte, 4096))
			r.Stable = true
			rs = append(rs, r)
		}
		c.submit(rs...)
		c.allEnded(rs...)
		for i, r := range rs {
			if r.Err == nil {
				t.Errorf("%T: write %d is on the disk, it says", d, i)
			}
		}
		c.want(c.flush(), disk.ErrIO)
	}
}

// Queues that flush and write through all the time have all their answers, with
// every engine.
func TestPlainSyncsFromEverywhere(t *testing.T) {
	for _, kind := range engine.Kinds {
		d := openDisk(t, newPlain(t, 1<<20))
		var workers sync.WaitGroup
		for w := range uint64(3) {
			workers.Go(asWorker(t, d, kind, func(c *client) {
				rs := []*disk.Request{request(disk.OpFlush, 0, nil), request(disk.OpWrite, 8*w, make([]byte, 4096)), request(disk.OpFlush, 0, nil)}
				rs[1].Stable = true
				for range 50 {
					c.submit(rs...)
					for range rs {
						if err := c.wait().Err; err != nil {
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
