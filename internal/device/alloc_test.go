package device

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A request allocates nothing, from the guest's ring to the file and back:
// AllocsPerRun counts what all goroutines of the process allocate.
func TestNoAllocationsEndToEnd(t *testing.T) {
	for name, o := range map[string]frontend.Options{"split": {}, "packed": {Packed: true}, "recorded": {Inflight: true}, "packed, recorded": {Packed: true, Inflight: true}} {
		t.Run(name, func(t *testing.T) { noAllocations(t, newRig(t, allocImage(t, t.TempDir()), 1), o) })
	}
}

// The same with each engine, in memory, on a disk with a page cache and on one
// without.
func TestNoAllocationsOnEachEngine(t *testing.T) {
	memory, err := os.MkdirTemp("/dev/shm", "zvhost-daemon-")
	if err != nil {
		t.Logf("no /dev/shm, so not on tmpfs: %v", err)
		memory = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	for _, kind := range engine.Kinds {
		for name, o := range map[string]disk.Options{"memory": {}, "disk": {}, "direct": {Direct: true}} {
			t.Run(fmt.Sprintf("%s, %s", kind, name), func(t *testing.T) {
				dir := t.TempDir()
				if name == "memory" {
					dir = filepath.Join(memory, string(kind))
					if err := os.Mkdir(dir, 0o700); err != nil {
						t.Fatal(err)
					}
				}
				r := openRig(t, allocImage(t, dir), 1, o)
				r.dev.engine = kind.Open
				noAllocations(t, r, frontend.Options{})
			})
		}
	}
}

const allocZone = 1 << 18 // sectors: room for all runs

// allocImage makes an image in dir for noAllocations.
func allocImage(t *testing.T, dir string) (path string) {
	path = filepath.Join(dir, "disk.zvh")
	if err := image.Create(path, zone.Geometry{CapacitySectors: 4 * allocZone, ZoneSectors: allocZone, ConventionalZones: 1}); err != nil {
		t.Fatal(err)
	}
	return path
}

func noAllocations(t *testing.T, r *rig, o frontend.Options) {
	const (
		blockBytes = 4096
		zn         = allocZone
		runs       = 50
	)
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
		{"append", driver.TypeZoneAppend, zn},
		{"read", driver.TypeIn, zn},
		{"read of zeroes", driver.TypeIn, 2 * zn},
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
