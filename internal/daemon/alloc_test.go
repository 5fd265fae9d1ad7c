package daemon

import (
	"testing"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A request allocates nothing, from the guest's ring to the file and back:
// AllocsPerRun counts what all goroutines of the process allocate.
func TestNoAllocationsEndToEnd(t *testing.T) {
	for name, o := range map[string]frontend.Options{"split": {}, "packed": {Packed: true}, "recorded": {Inflight: true}, "packed, recorded": {Packed: true, Inflight: true}} {
		t.Run(name, func(t *testing.T) { noAllocations(t, o) })
	}
}

func noAllocations(t *testing.T, o frontend.Options) {
	const (
		blockBytes = 4096
		zone       = 1 << 18 // sectors: room for all runs
		runs       = 50
	)
	r := zonedRig(t, backend.Geometry{CapacitySectors: 4 * zone, ZoneSectors: zone, ConventionalZones: 1}, 1)
	o.BufferBytes = blockBytes
	g := r.connect(o)
	q := g.Queue(0)
	done := make([]*frontend.Request, 32)
	batch := func(typ uint32, sector uint64, n int) {
		for range n {
			req := q.Get()
			req.Type, req.Sector = typ, sector
			req.SetLen(blockBytes)
			if err := q.Submit(req); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Kick(); err != nil {
			t.Fatal(err)
		}
		for back := 0; back < n; {
			k, err := q.Wait(done)
			if err != nil {
				t.Fatal(err)
			}
			for _, req := range done[:k] {
				if req.Status != driver.StatusOK {
					t.Fatal(driver.StatusString(req.Status))
				}
				q.Put(req)
			}
			back += k
		}
	}
	for _, c := range []struct {
		name   string
		typ    uint32
		sector uint64
	}{
		{"append", driver.TypeZoneAppend, zone},
		{"read", driver.TypeIn, zone},
		{"read of zeroes", driver.TypeIn, 2 * zone},
		{"write", driver.TypeOut, 0},
	} {
		for _, n := range []int{1, 32} {
			// Vectors have grown and helpers are there once all requests were used.
			for range 20 {
				batch(c.typ, c.sector, 32)
			}
			// What a request allocates it allocates in each of these; the runtime, and
			// goroutines of tests before this one that are on their way out, do not.
			got := 1.0
			for try := 0; try < 3 && got != 0; try++ {
				got = testing.AllocsPerRun(runs, func() { batch(c.typ, c.sector, n) })
			}
			if got != 0 {
				t.Errorf("%s, %d at once: %v allocations", c.name, n, got)
			}
		}
	}
	g.leave()
}
