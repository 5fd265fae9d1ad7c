package virtio_test

import (
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// Everything from ring to ring, with no allocation: reads, writes, appends, and
// what is finished in place, direct and indirect.
func TestNoAllocation(t *testing.T) {
	for _, indirect := range []bool{false, true} {
		linux := indirect
		for _, features := range []uint64{driver.FeatureIndirectDesc, allRing, driver.FeatureIndirectDesc | driver.FeatureRingPacked, allPacked} {
			b := newBlk(t, zonedDiskWithZeroes())
			g := newRig(t, 32, features, 65000)
			req := driver.Blk{Scratch: g.alloc(driver.BlkScratchBytes).GuestAddr, LinuxFooter: linux}
			if indirect {
				g.next = (g.next + 15) &^ 15
				req.Table = g.alloc(16 * 16)
			}
			data := []driver.Buffer{{GuestAddr: seam - 2048, Len: 4096}, g.alloc(4096)} // the first crosses regions
			seg := g.alloc(32)
			clear(g.bytes(seg))
			var r virtio.BlkRequest
			for _, c := range []struct {
				typ  uint32
				data []driver.Buffer
			}{
				{driver.TypeIn, data}, {driver.TypeOut, data}, {driver.TypeZoneAppend, data}, {driver.TypeFlush, nil},
				{driver.TypeWriteZeroes, []driver.Buffer{seg}}, {driver.TypeZoneReport, data}, {driver.TypeGetID, []driver.Buffer{{GuestAddr: seg.GuestAddr, Len: 20}}},
				{driver.TypeZoneReset, nil}, {200, nil},
			} {
				req.Type, req.Data = c.typ, c.data
				want := driver.StatusOK
				if c.typ == 200 {
					want = driver.StatusUnsupp
				}
				if n := testing.AllocsPerRun(200, func() {
					g.q.EnableKicks()
					if _, err := g.ring.AddBlk(&req, 1); err != nil {
						t.Fatal(err)
					}
					if !g.ring.Publish() {
						t.Fatal("no kick")
					}
					g.q.DisableKicks()
					g.pop(&r.Chain)
					if b.Decode(&r) {
						r.Err, r.AppendSector = nil, 7
					}
					g.q.Push(r.Chain.Head, r.Complete())
					g.ring.EnableCalls()
					if !g.q.Publish() {
						t.Fatal("no call")
					}
					if u := g.used(); u.Token != 1 {
						t.Fatal(u)
					}
					status, sector, err := g.ring.BlkResult(&req)
					if status != want || err != nil || (sector == 7) != (c.typ == driver.TypeZoneAppend) {
						t.Fatal(driver.StatusString(status), sector, err)
					}
				}); n != 0 {
					t.Errorf("type %d, indirect %v, %s: %v allocations", c.typ, indirect, virtio.FeatureString(features), n)
				}
			}
		}
	}
}

// One 4 KiB read from ring to ring, both sides and the decoding, without I/O.
func BenchmarkRing(b *testing.B) {
	for _, c := range []struct {
		name     string
		typ      uint32
		indirect bool
		features uint64
	}{
		{"read", driver.TypeIn, false, allRing}, {"read-indirect", driver.TypeIn, true, allRing}, {"append-indirect", driver.TypeZoneAppend, true, allRing},
		{"read-packed", driver.TypeIn, false, allPacked}, {"read-indirect-packed", driver.TypeIn, true, allPacked},
	} {
		b.Run(c.name, func(b *testing.B) {
			const depth = 32
			blk := newBlk(b, zonedDisk())
			g := newRig(b, 128, c.features, 0)
			var reqs [depth]driver.Blk
			var table [depth]virtio.BlkRequest
			for i := range reqs {
				g.next = (g.next + 63) &^ 63
				reqs[i] = driver.Blk{Type: c.typ, Sector: 2048, Scratch: g.alloc(64).GuestAddr, Data: []driver.Buffer{g.alloc(4096)}}
				if c.indirect {
					reqs[i].Table = g.alloc(64)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				for i := range reqs {
					if _, err := g.ring.AddBlk(&reqs[i], uint64(i)); err != nil {
						b.Fatal(err)
					}
				}
				g.ring.Publish()
				for i := range table {
					r := &table[i]
					if ok, err := g.q.Pop(&r.Chain); !ok || err != nil || !blk.Decode(r) {
						b.Fatal(ok, err, r.Err)
					}
				}
				for i := range table {
					g.q.Push(table[i].Chain.Head, table[i].Complete())
				}
				g.q.Publish()
				g.q.EnableKicks()
				for range reqs {
					if _, ok := g.ring.Next(); !ok {
						b.Fatal(g.ring.Err())
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/depth, "ns/request")
		})
	}
}
