package disktest

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// "Any block in a conventional zone can be read or written at any time and in
// any order."
func suiteConventional(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["512"]
	w := NewTwin(t, rig.Open(t, g), NewModel(g))
	for _, sector := range []uint64{200, 0, 255, 100, 127, 130, 100, 1} {
		w.Both(w.NewRequest(disk.OpWrite, sector, 512))
	}
	w.Both(w.NewRequest(disk.OpWrite, 120, 16*512)) // across two conventional zones
	w.Both(w.NewRequest(disk.OpRead, 120, 16*512))
	w.Both(w.NewRequest(disk.OpWrite, 250, 6*512)) // to the last sector
	w.Both(w.NewRequest(disk.OpWrite, 250, 7*512)) // into the first sequential zone
	w.Both(w.NewRequest(disk.OpRead, 250, 7*512))
	w.Both(w.NewRequest(disk.OpWrite, 0, 257*512))
	for _, op := range []disk.Op{disk.OpAppend, disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset} {
		w.Both(w.NewRequest(op, 0, map[disk.Op]uint64{disk.OpAppend: 512}[op]))
		w.Both(w.NewRequest(op, 128, 0))
	}
	stable := w.NewRequest(disk.OpWrite, 77, 1024)
	stable.Stable = true
	w.Both(stable)
	w.Both(w.NewRequest(disk.OpFinish, 256, 0))
	w.Both(w.NewRequest(disk.OpResetAll, 0, 0))
	w.CompareAll() // a reset of all zones leaves them alone
}

// explicitly open zones are the driver's: they are never closed to make room.
func suiteOpenLimit(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["512"]
	g.MaxOpen = 2
	w := NewTwin(t, rig.Open(t, g), NewModel(g))
	zn := func(i uint64) uint64 { return i * g.ZoneSectors }
	w.Both(w.NewRequest(disk.OpOpen, zn(2), 0))
	w.Both(w.NewRequest(disk.OpOpen, zn(3), 0))
	w.Both(w.NewRequest(disk.OpOpen, zn(4), 0)) // one too many
	c := w.Client
	c.WantError(c.ZoneOp(disk.OpOpen, zn(4)), zone.ErrOpenLimit)
	c.WantError(c.Write(zn(4), Pattern('x', 512)), zone.ErrOpenLimit)
	_, err := c.Append(zn(4), Pattern('x', 512))
	c.WantError(err, zone.ErrOpenLimit)
	c.WantZone(4, zone.Empty, 0)
	w.Both(w.NewRequest(disk.OpFinish, zn(4), 0)) // takes no resource
	w.Both(w.NewRequest(disk.OpClose, zn(2), 0))  // empty: gives its resource back
	w.Both(w.NewRequest(disk.OpWrite, zn(5), 512))
	w.Both(w.NewRequest(disk.OpOpen, zn(6), 0)) // closes 5
	c.WantZone(5, zone.Closed, 1)
	w.Both(w.NewRequest(disk.OpOpen, zn(5), 0)) // 3 and 6 are explicitly open
	w.Both(w.NewRequest(disk.OpWrite, zn(5)+1, 512))
	w.CompareAll()
}

// "A zone transition request that leads to both the max_open_zones and the
// max_active_zones limits to be exceeded is terminated by the device with
// VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE status value."
func suiteActiveLimit(t *testing.T, rig SuiteRig) {
	for _, limit := range []uint32{0, 3} {
		g := SuiteGeometries["512"]
		g.MaxActive, g.MaxOpen = 3, limit
		w := NewTwin(t, rig.Open(t, g), NewModel(g))
		c := w.Client
		zn := func(i uint64) uint64 { return i * g.ZoneSectors }
		w.Both(w.NewRequest(disk.OpOpen, zn(2), 0))
		w.Both(w.NewRequest(disk.OpOpen, zn(3), 0))
		w.Both(w.NewRequest(disk.OpOpen, zn(4), 0))
		c.WantError(c.ZoneOp(disk.OpOpen, zn(5)), zone.ErrActiveLimit)
		c.WantError(c.Write(zn(5), Pattern('x', 512)), zone.ErrActiveLimit)
		_, err := c.Append(zn(5), Pattern('x', 512))
		c.WantError(err, zone.ErrActiveLimit)
		w.Both(w.NewRequest(disk.OpWrite, zn(2), 512))
		w.Both(w.NewRequest(disk.OpClose, zn(2), 0)) // closed is still active
		c.WantError(c.Write(zn(5), Pattern('x', 512)), zone.ErrActiveLimit)
		w.Both(w.NewRequest(disk.OpFinish, zn(2), 0)) // full is not
		w.Both(w.NewRequest(disk.OpWrite, zn(5), 512))
		w.Both(w.NewRequest(disk.OpWrite, zn(6), 512))
		w.Both(w.NewRequest(disk.OpReset, zn(5), 0))
		w.Both(w.NewRequest(disk.OpWrite, zn(6), 512))
		w.Both(w.NewRequest(disk.OpResetAll, 0, 0))
		w.Both(w.NewRequest(disk.OpWrite, zn(7), 512))
		w.CompareAll()
	}
}

// "VIRTIO_BLK_ZS_CLOSED implicitly by the device when another zone is entering
// the VIRTIO_BLK_ZS_IOPEN or VIRTIO_BLK_ZS_EOPEN state and the number of
// currently open zones is at max_open_zones limit": the one that was opened
// first.
func suiteImplicitClose(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["512"]
	g.MaxOpen = 3
	w := NewTwin(t, rig.Open(t, g), NewModel(g))
	zn := func(i uint64) uint64 { return i * g.ZoneSectors }
	for _, i := range []uint64{5, 3, 4} {
		w.Both(w.NewRequest(disk.OpWrite, zn(i), 512))
	}
	w.Both(w.NewRequest(disk.OpWrite, zn(5)+1, 512)) // keeps its age
	w.Both(w.NewRequest(disk.OpWrite, zn(6), 512))
	w.WantZone(5, zone.Closed, 2)
	w.Both(w.NewRequest(disk.OpAppend, zn(5), 512)) // opens it again, as the newest
	w.WantZone(3, zone.Closed, 1)
	w.Both(w.NewRequest(disk.OpOpen, zn(4), 0)) // not a candidate any more
	w.Both(w.NewRequest(disk.OpOpen, zn(7), 0))
	w.WantZone(6, zone.Closed, 1)
	w.Both(w.NewRequest(disk.OpWrite, zn(8), 512))
	w.WantZone(5, zone.Closed, 3)
	w.WantZone(4, zone.ExpOpen, 1)
	w.WantZone(7, zone.ExpOpen, 0)
	w.Both(w.NewRequest(disk.OpWrite, zn(2), 96*512)) // open for an instant, then full
	w.WantZone(2, zone.Full, 96)
	w.WantZone(8, zone.Closed, 1)
	w.CompareAll()
}

// "The device MUST consider the sectors that are read between the write pointer
// position of a zone and the end of the last sector of the zone as unwritten
// data." It reads as zeroes here, whatever stood there before.
func suiteUnwrittenIsZeroes(t *testing.T, rig SuiteRig) {
	for _, g := range SuiteGeometries {
		w := NewTwin(t, rig.Open(t, g), NewModel(g))
		i := 3
		z := &w.m.Zones[i]
		all := (z.Writable - z.Start) * disk.SectorSize
		w.Both(w.NewRequest(disk.OpWrite, z.Start, all))
		w.CompareData(i)
		w.Both(w.NewRequest(disk.OpReset, z.Start, 0))
		w.CompareData(i)
		w.Both(w.NewRequest(disk.OpWrite, z.Start, 4096)) // over a part of the old data
		w.CompareData(i)
		w.Both(w.NewRequest(disk.OpFinish, z.Start, 0)) // "during VIRTIO_BLK_T_ZONE_FINISH request processing"
		w.CompareData(i)
		w.Both(w.NewRequest(disk.OpReset, z.Start, 0))
		w.Both(w.NewRequest(disk.OpAppend, z.Start, 8192))
		w.Both(w.NewRequest(disk.OpRead, z.Start+8, 8192)) // half written, half not
		w.Both(w.NewRequest(disk.OpRead, z.Start+16, 4096))
		w.Both(w.NewRequest(disk.OpRead, z.Writable-8, (z.End-z.Writable+8)*disk.SectorSize))
		w.Both(w.NewRequest(disk.OpResetAll, 0, 0))
		w.CompareAll()
	}
}

// "The device handles a VIRTIO_BLK_T_ZONE_RESET_ALL request by transitioning all
// sequential device zones in VIRTIO_BLK_ZS_IOPEN, VIRTIO_BLK_ZS_EOPEN,
// VIRTIO_BLK_ZS_CLOSED and VIRTIO_BLK_ZS_FULL state to VIRTIO_BLK_ZS_EMPTY": read-only
// and offline zones stay what they are, and are no error.
func suiteResetAll(t *testing.T, rig SuiteRig) {
	for _, g := range SuiteGeometries {
		g.MaxOpen, g.MaxActive = 5, 6
		m := NewModel(g)
		d := rig.OpenWith(t, g, map[int]zone.State{6: zone.ReadOnly, 8: zone.Offline})
		m.set(6, zone.ReadOnly)
		m.set(8, zone.Offline)
		w := NewTwin(t, d, m)
		for round := range 3 {
			for n, s := range suiteStates(0)[1:5] {
				w.prepare([]int{2, 3, 4, 5}[n], s)
			}
			w.Both(w.NewRequest(disk.OpWrite, m.Zones[7].Start, (m.Zones[7].Writable-m.Zones[7].Start)*disk.SectorSize))
			w.Both(w.NewRequest(disk.OpFinish, m.Zones[9].Start, 0))
			r := w.NewRequest(disk.OpResetAll, uint64(round)<<40, 0) // "The sector value is not used"
			r.Stable = round == 2
			w.Both(r)
			w.CompareAll()
		}
	}
}

func suiteAppendLimit(t *testing.T, rig SuiteRig) {
	for _, g := range SuiteGeometries {
		w := NewTwin(t, rig.Open(t, g), NewModel(g))
		z := &w.m.Zones[4]
		limit, block := uint64(w.m.Geom.MaxAppendSectors)*disk.SectorSize, uint64(w.m.Geom.BlockSize)
		w.Both(w.NewRequest(disk.OpAppend, z.Start, limit))
		w.Both(w.NewRequest(disk.OpAppend, z.Start, limit+block))
		w.Both(w.NewRequest(disk.OpReset, z.Start, 0))
		w.Both(w.NewRequest(disk.OpWrite, z.Start, limit+block)) // plain writes have none
		for z.WP < z.Writable {
			if !w.Both(w.NewRequest(disk.OpAppend, z.Start, min(limit, (z.Writable-z.WP)*disk.SectorSize))) {
				return
			}
		}
		w.Both(w.NewRequest(disk.OpAppend, z.Start, block))
		w.CompareAll()
	}
}

// A request of no bytes, where one of some would be right, is right and does
// nothing; where one would be wrong it is wrong.
func suiteNothing(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["512"]
	m := NewModel(g)
	m.set(6, zone.ReadOnly)
	m.set(7, zone.Offline)
	w := NewTwin(t, rig.OpenWith(t, g, map[int]zone.State{6: zone.ReadOnly, 7: zone.Offline}), m)
	for i := range m.Zones {
		for _, op := range []disk.Op{disk.OpRead, disk.OpWrite, disk.OpAppend} {
			w.Both(w.NewRequest(op, m.Zones[i].Start, 0))
			w.Both(w.NewRequest(op, m.Zones[i].Start+8, 0))
		}
	}
	w.Both(w.NewRequest(disk.OpOpen, m.Zones[3].Start, 0))
	w.Both(w.NewRequest(disk.OpWrite, m.Zones[3].Start, 0))
	w.WantZone(3, zone.ExpOpen, 0)
	w.WantZone(4, zone.Empty, 0)
	w.CompareAll()
}

// Sector numbers beyond 32 bits, in the seed's case the length of the last zone.
func suiteLargeDisk(t *testing.T, rig SuiteRig) {
	g := zone.Geometry{CapacitySectors: 5<<32 + 64, ZoneSectors: 1 << 31}
	d := rig.Open(t, g)
	c := NewClient(t, d)
	info := d.Info().Zoned
	for _, i := range []int{0, info.Zones - 2, info.Zones - 1} {
		z := d.ReportZone(i)
		want := zone.Descriptor{
			Start: uint64(i) << 31, Length: 1 << 31, Capacity: 1 << 31, WP: uint64(i) << 31,
			Type: zone.SequentialWriteRequired, State: zone.Empty,
		}
		if i == info.Zones-1 {
			want.Length, want.Capacity = 64, 64
		}
		if z != want {
			t.Fatalf("zone %d is %+v, want %+v", i, z, want)
		}
		data := Pattern(byte(i), 32*512)
		at, err := c.Append(z.Start, data)
		if err != nil || at != z.Start {
			t.Errorf("append to zone %d: sector %d, %v", i, at, err)
		}
		c.WantError(c.Write(z.Start+32, data), nil)
		if got := c.Read(z.Start, 64*512); !bytes.Equal(got, append(data, data...)) {
			t.Errorf("zone %d: the data is not what was written", i)
		}
	}
	c.WantZone(info.Zones-1, zone.Full, 64)
	c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
	c.WantZone(info.Zones-1, zone.Empty, 0)
}

// Seed bug 3: a smaller last zone never got its write pointer updated.
func suiteSeedSmallerLastZone(t *testing.T, rig SuiteRig) {
	for name, g := range SuiteGeometries {
		w := NewTwin(t, rig.Open(t, g), NewModel(g))
		last := len(w.m.Zones) - 1
		z := &w.m.Zones[last]
		w.Both(w.NewRequest(disk.OpWrite, z.Start, 4096))
		w.Both(w.NewRequest(disk.OpAppend, z.Start, 4096))
		w.WantZone(last, zone.ImpOpen, 16)
		w.Both(w.NewRequest(disk.OpRead, z.Start, (z.End-z.Start)*disk.SectorSize))
		w.Both(w.NewRequest(disk.OpRead, z.End-8, 8192)) // past the disk
		w.Both(w.NewRequest(disk.OpWrite, z.WP, (z.Writable-z.WP)*disk.SectorSize))
		if z.State != zonemodel.Full {
			t.Errorf("%s: the last zone is not full", name)
		}
		w.Both(w.NewRequest(disk.OpFinish, z.Start, 0))
		w.Both(w.NewRequest(disk.OpReset, z.Start, 0))
		w.CompareAll()
	}
}

// Seed bug 4: WRITE_ZEROES was offered on a zoned disk but did not move the
// write pointer.
func suiteSeedWriteZeroes(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["512"]
	w := NewTwin(t, rig.Open(t, g), NewModel(g))
	if i := w.Disk.Info(); i.MaxWriteZeroesSectors != 0 || i.MaxDiscardSectors != 0 {
		t.Errorf("a zoned disk offers discard or write zeroes: %+v", i)
	}
	w.Both(w.NewRequest(disk.OpWrite, 256, 4096))
	w.Both(&disk.Request{Op: disk.OpWriteZeroes, Sector: 264, Ranges: []disk.Range{{Sector: 264, Sectors: 8}}})
	w.Both(&disk.Request{Op: disk.OpDiscard, Sector: 256, Ranges: []disk.Range{{Sector: 256, Sectors: 8}}})
	w.CompareAll()
}

// Seed bug 5: an append was refused unless every single vector was aligned,
// though only the total has to be.
func suiteSeedOddVectors(t *testing.T, rig SuiteRig) {
	for _, g := range SuiteGeometries {
		w := NewTwin(t, rig.Open(t, g), NewModel(g))
		z := &w.m.Zones[3]
		data := make([]byte, 8192)
		_, _ = w.fill.Read(data)
		for _, cuts := range [][]int{{1}, {4095}, {3, 7, 4000}, {511, 512, 513}, {100, 100}, {8191}} {
			r := &disk.Request{Op: disk.OpAppend, Sector: z.Start, Bytes: 8192}
			at := 0
			for _, cut := range append(cuts, len(data)) {
				if cut > at {
					r.Iov = append(r.Iov, unix.Iovec{Base: &data[at], Len: uint64(cut - at)})
				}
				at = max(at, cut)
			}
			w.Both(r)
		}
		w.Both(&disk.Request{Op: disk.OpAppend, Sector: z.Start, Bytes: 1000, Iov: Split(data[:1000], 0)})
		w.CompareAll()
	}
}

// Seed bug 6: an offset at the capacity with length 0 indexed one past the table.
func suiteSeedEdgeOfDisk(t *testing.T, rig SuiteRig) {
	for _, g := range SuiteGeometries {
		w := NewTwin(t, rig.Open(t, g), NewModel(g))
		for op := range disk.OpSecureErase { // which has its zones in Ranges
			for _, sector := range []uint64{g.CapacitySectors, g.CapacitySectors - 1, g.CapacitySectors + 1, g.CapacitySectors + g.ZoneSectors, 1<<64 - 1} {
				w.Both(w.NewRequest(op, sector, 0))
			}
		}
		w.CompareAll()
	}
}

// Seed bug 7: OPEN_RESOURCE, ACTIVE_RESOURCE and UNALIGNED_WP were never
// returned.
func suiteSeedErrorsHaveNames(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["512"]
	g.MaxOpen, g.MaxActive = 1, 2
	c := NewClient(t, rig.Open(t, g))
	data := Pattern('x', 4096)
	c.WantError(c.ZoneOp(disk.OpOpen, 256), nil)
	c.WantError(c.Write(256+8, data), zone.ErrUnaligned)
	c.WantError(c.Write(256, data), nil)
	c.WantError(c.Write(256, data), zone.ErrUnaligned)
	c.WantError(c.Write(384, data), zone.ErrOpenLimit)
	c.WantError(c.ZoneOp(disk.OpClose, 256), nil)
	c.WantError(c.Write(384, data), nil)
	c.WantError(c.Write(512, data), zone.ErrActiveLimit)
	c.WantError(c.Write(128*20, data), disk.ErrRange)
	err := c.Write(384+96-8, data)
	c.WantError(err, zone.ErrUnaligned)
	want := "write of 4096 bytes at sector 472 (zone 3): not at the write pointer, or not whole blocks"
	if err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	var re *disk.RequestError
	if !errors.As(err, &re) || re.Zone != 3 || re.Sector != 472 {
		t.Errorf("the error does not say where: %+v", re)
	}

	four := SuiteGeometries["4096"]
	c = NewClient(t, rig.Open(t, four))
	c.WantError(c.Write(0, data[:512]), zone.ErrUnaligned)
	_, err = c.Append(0, data[:512])
	c.WantError(err, zone.ErrUnaligned)
	c.WantError(c.Write(1, data), zone.ErrUnaligned)
	c.WantZone(0, zone.Empty, 0)
}

// Of the bugs that the seed mended later: one pointer for the result of an
// append, shared by all that were in flight.
func suiteSeedAppendResults(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["full capacity"]
	d := rig.Open(t, g)
	c := NewClient(t, d)
	for zn := uint64(1); zn < 12; zn++ {
		seen := make(map[uint64]bool)
		var rs []*disk.Request
		for i := range 16 {
			rs = append(rs, NewRequest(disk.OpAppend, zn*64, Pattern(byte(i), (i%3+1)*512)))
		}
		c.Submit(rs...)
		for range rs {
			r := c.Wait()
			c.WantError(r.Err, nil)
			for s := range r.Bytes / disk.SectorSize {
				if seen[r.AppendSector+s] {
					t.Fatalf("sector %d was given out twice", r.AppendSector+s)
				}
				seen[r.AppendSector+s] = true
			}
		}
		for _, r := range rs {
			if got := c.Read(r.AppendSector, int(r.Bytes)); !bytes.Equal(got, BytesOf(r)) {
				t.Fatalf("append that landed at sector %d: other data is there", r.AppendSector)
			}
		}
		c.WantZone(int(zn), zone.ImpOpen, 31)
	}
}
