package backend

import (
	"fmt"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// These print figures and assert nothing: go test -bench . -run '^$' ./backend

const benchZone = 1 << 20 >> disk.SectorShift << 8 // 256 MiB, in sectors

// benchDepth keeps depth requests in flight on one lane until b.N have ended;
// next prepares a request for its turn.
func benchDepth(b *testing.B, d disk.Disk, depth int, next func(r *disk.Request, i int)) {
	c := disktest.NewClient(b, d)
	rs := make([]*disk.Request, depth)
	for i := range rs {
		rs[i] = disktest.NewRequest(disk.OpRead, 0, make([]byte, 4096))
	}
	b.SetBytes(4096)
	b.ReportAllocs()
	b.ResetTimer()
	sent := 0
	for ; sent < min(depth, b.N); sent++ {
		next(rs[sent], sent)
		c.Lane.Submit(d, rs[sent])
	}
	c.Lane.Start()
	for ended := 0; ended < b.N; {
		r := c.Wait()
		for ; r != nil; r = c.Lane.Done() {
			ended++
			if r.Err != nil {
				b.Fatal(r.Err)
			}
			if sent < b.N {
				next(r, sent)
				sent++
				c.Lane.Submit(d, r)
			}
		}
		c.Lane.Start()
	}
}

func BenchmarkLane(b *testing.B) {
	g := zone.Geometry{CapacitySectors: 64 * benchZone, ZoneSectors: benchZone}
	const perZone = benchZone / 8
	for _, depth := range []int{1, 32} {
		cases := map[string]func(r *disk.Request, i int){
			"read": func(r *disk.Request, i int) { r.Op, r.Sector = disk.OpRead, uint64(i*7919%perZone)*8 },
			"write": func(r *disk.Request, i int) {
				i %= 32 * perZone
				r.Op, r.Sector = disk.OpWrite, uint64(1+i/perZone)*benchZone+uint64(i%perZone)*8
			},
			"append": func(r *disk.Request, i int) {
				r.Op, r.Sector = disk.OpAppend, uint64(33+i/perZone%30)*benchZone
			},
		}
		for _, name := range []string{"read", "write", "append"} {
			b.Run(fmt.Sprintf("%s/depth=%d", name, depth), func(b *testing.B) {
				path := imagetest.NewFast(b, g)
				d := openDisk(b, path)
				defer d.Close()
				if name == "read" {
					c := disktest.NewClient(b, d)
					data := make([]byte, 1<<20)
					for at := uint64(0); at < benchZone; at += uint64(len(data)) >> disk.SectorShift {
						c.WantError(c.Write(at, data), nil)
					}
				}
				benchDepth(b, d, depth, cases[name])
			})
		}
	}
}

// How the cost of a request depends on the number of zones: not at all. Each
// takes the zones in turn, so that none is found in the processor's caches.
func BenchmarkZones(b *testing.B) {
	data := make([]byte, 4096)
	for _, op := range []struct {
		name string
		do   func(c *disktest.Client, zn uint64)
	}{
		{"append", func(c *disktest.Client, zn uint64) {
			_, err := c.Append(zn, data)
			c.WantError(err, nil)
		}},
		{"read", func(c *disktest.Client, zn uint64) { c.Read(zn, 4096) }},
		{"open and close", func(c *disktest.Client, zn uint64) {
			c.WantError(c.ZoneOp(disk.OpOpen, zn), nil)
			c.WantError(c.ZoneOp(disk.OpClose, zn), nil)
		}},
		{"write, reset and write", func(c *disktest.Client, zn uint64) {
			c.WantError(c.ZoneOp(disk.OpReset, zn), nil)
			c.WantError(c.Write(zn, data), nil)
			c.WantError(c.ZoneOp(disk.OpReset, zn), nil)
			c.WantError(c.Write(zn, data), nil)
		}},
		{"append and flush", func(c *disktest.Client, zn uint64) {
			_, err := c.Append(zn, data)
			c.WantError(err, nil)
			c.WantError(c.Flush(), nil)
		}},
	} {
		for _, zones := range []uint64{100, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/zones=%d", op.name, zones), func(b *testing.B) {
				g := zone.Geometry{CapacitySectors: zones << 17, ZoneSectors: 1 << 17} // 64 MiB each
				d := openDisk(b, imagetest.NewFast(b, g))
				defer d.Close()
				c := disktest.NewClient(b, d)
				i := uint64(0)
				for b.Loop() {
					op.do(c, i%zones*7919%zones<<17)
					i++
				}
			})
		}
	}
}

// The large image of issue 3: 8 TiB in 131,072 zones of 64 MiB.
func BenchmarkLarge(b *testing.B) {
	const zones = 131_072
	path := imagetest.NewFast(b, zone.Geometry{CapacitySectors: zones << 17, ZoneSectors: 1 << 17})
	b.Run("open and close", func(b *testing.B) {
		for b.Loop() {
			d := openDisk(b, path)
			if err := d.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	d := openDisk(b, path)
	defer d.Close()
	b.Run("report of all zones", func(b *testing.B) {
		for b.Loop() {
			for i := range zones {
				_ = d.ReportZone(i)
			}
		}
	})
	b.Run("ReadReport", func(b *testing.B) {
		for b.Loop() {
			if _, err := ReadReport(path); err != nil {
				b.Fatal(err)
			}
		}
	})
	c := disktest.NewClient(b, d)
	b.Run("reset all of empty zones", func(b *testing.B) {
		for b.Loop() {
			c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
		}
	})
	b.Run("finish and reset all zones", func(b *testing.B) {
		for b.Loop() {
			for i := range uint64(zones) {
				c.WantError(c.ZoneOp(disk.OpFinish, i<<17), nil)
			}
			c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
			c.WantError(c.Flush(), nil)
		}
	})
	b.Run("write, reset all and flush", func(b *testing.B) {
		data := make([]byte, 512)
		for b.Loop() {
			for i := range uint64(1000) {
				c.WantError(c.Write(i*131<<17, data), nil)
			}
			c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
			c.WantError(c.Flush(), nil)
		}
	})
	b.Run("check", func(b *testing.B) {
		other := imagetest.NewFast(b, zone.Geometry{CapacitySectors: zones << 17, ZoneSectors: 1 << 17})
		for b.Loop() {
			imagetest.WantClean(b, other)
		}
	})
}
