//go:build !zvhost_onelock

// See zones_test.go for why not in that build.

package drive

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// A quickEngine is done with everything at once, and moves nothing.
type quickEngine struct {
	ops  [64]*engine.Op
	n    int
	sent int // how many it was given
}

func (e *quickEngine) Queue(op *engine.Op) {
	op.N, op.Err = op.Len, nil
	e.ops[e.n] = op
	e.n, e.sent = e.n+1, e.sent+1
}
func (e *quickEngine) Submit()                {}
func (e *quickEngine) Close() error           { return nil }
func (e *quickEngine) Wait(fds []unix.PollFd) { engine.Poll(fds) }

func (e *quickEngine) Err() error { return nil }

func (e *quickEngine) Reap() *engine.Op {
	if e.n == 0 {
		return nil
	}
	e.n--
	return e.ops[e.n]
}

// No read, write or append of a drive allocates, by itself or made one with
// others; nor does one that has to be copied, but for the memory to copy to, which
// is used again (the race detector's sync.Pool drops one in four: less than one a
// run).
func TestNoAllocations(t *testing.T) {
	d := newFakeDrive(t, zone.Geometry{CapacitySectors: 8 << 20, ZoneSectors: 1 << 20, ConventionalZones: 1, MaxAppendSectors: 64}, nil, nil)
	d.partBytes = 16 << disk.SectorShift
	e := new(quickEngine)
	c := disktest.NewClientOn(t, d.Drive, func(func()) (engine.Engine, error) { return e, nil })
	memory := pageAligned(8192)
	aligned := []unix.Iovec{{Base: &memory[0], Len: 512}, {Base: &memory[512], Len: 3584}}
	odd := []unix.Iovec{{Base: &memory[1], Len: 1000}, {Base: &memory[1001], Len: 3096}}
	rs := make([]*disk.Request, 8)
	for i := range rs {
		rs[i] = new(disk.Request)
	}
	run := func(n int, op disk.Op, sector uint64, iov []unix.Iovec) {
		for _, r := range rs[:n] {
			r.Op, r.Sector, r.Iov, r.Bytes, r.Stable = op, sector, iov, 4096, false
			c.Lane.Submit(d.Drive, r)
		}
		c.Lane.Start()
		for range n {
			if r := c.Wait(); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	const zn = 1 << 20
	run(2, disk.OpAppend, zn, aligned)
	var wp uint64
	for name, f := range map[string]func(){
		"read":               func() { run(1, disk.OpRead, zn, aligned) },
		"read half written":  func() { run(1, disk.OpRead, zn+12, aligned) },
		"read of nothing":    func() { run(1, disk.OpRead, 7*zn, aligned) },
		"reads":              func() { run(8, disk.OpRead, zn, aligned) },
		"write":              func() { run(1, disk.OpWrite, 2*zn+wp, aligned); wp += 8 },
		"write conventional": func() { run(1, disk.OpWrite, 100, aligned) },
		"append":             func() { run(1, disk.OpAppend, 3*zn, aligned) },
		"appends made one":   func() { run(8, disk.OpAppend, 4*zn, aligned) },
		"flush":              func() { run(1, disk.OpFlush, 0, aligned) },
		"append, copied":     func() { run(1, disk.OpAppend, 5*zn, odd) },
		"read, copied":       func() { run(1, disk.OpRead, zn, odd) },
		"report of a zone":   func() { _ = d.Drive.ReportZone(3) },
	} {
		for range 4 {
			f()
		}
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	before := e.sent
	run(8, disk.OpAppend, 6*zn, aligned)
	if n := e.sent - before; n != 4 { // one, in four parts
		t.Errorf("eight appends were %d writes", n)
	}
}
