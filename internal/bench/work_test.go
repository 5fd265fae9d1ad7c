package bench

import (
	"math/rand/v2"
	"testing"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// requests are those of a queue of a disk without storage.
func requests(t *testing.T, depth, bytes int) []*blkclient.Request {
	t.Helper()
	c, err := frontend.Dial(serveNull(t, 1<<20))
	check(t, err)
	d, err := frontend.Open(c, frontend.Options{Depth: depth, BufferBytes: bytes, QueueSize: 128})
	check(t, err)
	t.Cleanup(func() { check(t, d.Close()) })
	var all []*blkclient.Request
	for r := d.Queue(0).Get(); r != nil; r = d.Queue(0).Get() {
		r.Tag = uint64(len(all))
		all = append(all, r)
	}
	return all
}

// In order and anywhere, over extents and in parts: every block is touched, and
// nothing else.
func TestSpread(t *testing.T) {
	r := requests(t, 1, 4096)[0]
	extents := []extent{{sector: 0, before: 0}, {sector: 1000, before: 3}, {sector: 5000, before: 10}}
	blocks := map[uint64]int{}
	for i := range uint64(12) {
		for e := len(extents) - 1; ; e-- {
			if extents[e].before <= i {
				blocks[extents[e].sector+(i-extents[e].before)*8] = 0
				break
			}
		}
	}
	s := spread{typ: driver.TypeIn, bytes: 4096, blockSectors: 8, extents: extents, blocks: 12}
	for _, random := range []bool{false, true} {
		s.random = random
		for part := range 3 {
			w := s.part(part, 3)
			hits := map[uint64]int{}
			for range 12 * 20 {
				if !w.next(r) || r.Type != driver.TypeIn || len(r.Data) != 4096 {
					t.Fatalf("%+v", r)
				}
				if _, ok := blocks[r.Sector]; !ok {
					t.Fatalf("sector %d", r.Sector)
				}
				hits[r.Sector]++
				w.done(r)
			}
			if len(hits) != 12 {
				t.Errorf("random %v, part %d: %v", random, part, hits)
			}
			for sector, n := range hits {
				if !random && n != 20 {
					t.Errorf("part %d: sector %d was hit %d times", part, sector, n)
				}
			}
		}
	}
	first := s.part(1, 3)
	if first.random = false; first.next(r) && r.Sector != 1000+8 { // block 4 of 12
		t.Errorf("part 1 begins at sector %d", r.Sector)
	}
}

// Zones as a drive sees them: writes at the write pointer and one at a time,
// appends any number; a reset only when nothing more fits and nothing is in
// flight.
func TestFiller(t *testing.T) {
	const depth, sectors, capacity = 8, 8, 100
	all := requests(t, depth, sectors*512)
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, typ := range []uint32{driver.TypeOut, driver.TypeZoneAppend} {
		f := &filler{typ: typ, bytes: sectors * 512, sectors: sectors, perZone: 1, inZone: make([]int32, depth)}
		if typ == driver.TypeZoneAppend {
			f.perZone = depth
		}
		for i := range uint64(3) {
			f.zones = append(f.zones, fillZone{start: i * 128, capacity: capacity})
		}
		wp, out := map[uint64]uint64{}, map[uint64]int{}
		free, flying := append([]*blkclient.Request(nil), all...), []*blkclient.Request(nil)
		most, resets := 0, 0
		for range 5000 {
			for len(free) > 0 {
				r := free[0]
				if !f.next(r) {
					break
				}
				zone := r.Sector &^ 127
				switch r.Type {
				case driver.TypeZoneReset:
					if out[zone] != 0 || wp[zone]+sectors <= capacity || len(r.Data) != 0 {
						t.Fatalf("reset of zone %d with %d in flight at %d", zone, out[zone], wp[zone])
					}
					wp[zone], resets = 0, resets+1
				case typ:
					if typ == driver.TypeOut && (out[zone] != 0 || r.Sector != zone+wp[zone]) || typ != driver.TypeOut && r.Sector != zone {
						t.Fatalf("sector %d, with %d in flight at %d", r.Sector, out[zone], wp[zone])
					}
					if wp[zone] += sectors; wp[zone] > capacity || len(r.Data) != sectors*512 {
						t.Fatalf("zone %d: %d sectors", zone, wp[zone])
					}
				default:
					t.Fatalf("type %d", r.Type)
				}
				out[zone]++
				free, flying = free[1:], append(flying, r)
			}
			most = max(most, len(flying))
			if len(flying) == 0 {
				t.Fatal("nothing in flight, and nothing can be sent")
			}
			i := rnd.IntN(len(flying))
			r := flying[i]
			flying = append(flying[:i], flying[i+1:]...)
			out[r.Sector&^127]--
			f.done(r)
			free = append(free, r)
		}
		want := 3
		if typ == driver.TypeZoneAppend {
			want = depth
		}
		if most != want || resets < 100 {
			t.Errorf("type %d: %d in flight at the most, %d resets", typ, most, resets)
		}
	}
}

func TestReports(t *testing.T) {
	r := requests(t, 1, 4096)[0]
	w := &reports{bytes: 64 + 4*64, zoneSectors: 128, capacity: 10*128 + 5}
	for i, want := range []uint64{0, 512, 1024, 0, 512} {
		if !w.next(r) || r.Type != driver.TypeZoneReport || r.Sector != want || len(r.Data) != 320 {
			t.Errorf("report %d: %+v", i, r)
		}
		w.done(r)
	}
}
