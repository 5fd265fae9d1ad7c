package disktest

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// This file is the suite that every zoned disk has to pass, whatever it stands
// on. It knows disks by their exported face only.

// A SuiteRig makes disks for the suite.
type SuiteRig struct {
	// Open makes a disk of geometry g with all zones empty. It is closed, and
	// what it leaves is checked, when the test ends.
	Open func(t testing.TB, g zone.Geometry) disk.Disk
	// OpenWith makes one with some zones read-only or offline, whatever it takes.
	OpenWith func(t testing.TB, g zone.Geometry, zones map[int]zone.State) disk.Disk
	// OpenReadOnly makes one that was written by fill and is now read-only.
	OpenReadOnly func(t testing.TB, g zone.Geometry, fill func(disk.Disk)) disk.Disk
}

// RunSuite runs the suite's tests, each as a subtest of t.
func RunSuite(t *testing.T, rig SuiteRig) {
	tests := map[string]func(*testing.T, SuiteRig){
		"Matrix":              suiteMatrix,
		"ReadOnlyDisk":        suiteReadOnlyDisk,
		"Conventional":        suiteConventional,
		"OpenLimit":           suiteOpenLimit,
		"ActiveLimit":         suiteActiveLimit,
		"ImplicitClose":       suiteImplicitClose,
		"UnwrittenIsZeroes":   suiteUnwrittenIsZeroes,
		"ResetAll":            suiteResetAll,
		"AppendLimit":         suiteAppendLimit,
		"NothingInBetween":    suiteNothing,
		"LargeDisk":           suiteLargeDisk,
		"SeedSmallerLastZone": suiteSeedSmallerLastZone,
		"SeedWriteZeroes":     suiteSeedWriteZeroes,
		"SeedOddVectors":      suiteSeedOddVectors,
		"SeedEdgeOfDisk":      suiteSeedEdgeOfDisk,
		"SeedErrorsHaveNames": suiteSeedErrorsHaveNames,
		"SeedAppendResults":   suiteSeedAppendResults,

		"StateFirst":               suiteStateFirst,
		"AppendNeedsAZone":         suiteAppendNeedsAZone,
		"LastZoneCapacity":         suiteLastZoneCapacity,
		"ReadOnlyManagement":       suiteReadOnlyManagement,
		"ConventionalOutOfService": suiteConventionalOutOfService,
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, rig)
		})
	}
}

// SuiteGeometries are small disks that differ in all that matters: block size,
// capacity below size or not, with and without conventional zones, a smaller
// last zone, one that is smaller than the capacity of the others.
var SuiteGeometries = map[string]zone.Geometry{
	"512": {
		CapacitySectors: 11*128 + 64, ZoneSectors: 128, ZoneCapacitySectors: 96,
		ConventionalZones: 2, MaxAppendSectors: 32,
	},
	"4096": {
		CapacitySectors: 11*128 + 112, ZoneSectors: 128, ZoneCapacitySectors: 104,
		MaxAppendSectors: 64, BlockSize: 4096,
	},
	"full capacity": {
		CapacitySectors: 12 * 64, ZoneSectors: 64, ConventionalZones: 1,
	},
}

// A suiteState is how the matrix brings a zone into a state, with sectors of it
// written.
type suiteState struct {
	state   zone.State
	written uint64    // sectors; for Full by writes, all of them
	steps   []disk.Op // OpWrite stands for a write of written sectors
}

func suiteStates(capacity uint64) []suiteState {
	return []suiteState{
		{zone.Empty, 0, nil},
		{zone.ImpOpen, 24, []disk.Op{disk.OpWrite}},
		{zone.ExpOpen, 0, []disk.Op{disk.OpOpen}},
		{zone.ExpOpen, 24, []disk.Op{disk.OpOpen, disk.OpWrite}},
		{zone.Closed, 24, []disk.Op{disk.OpWrite, disk.OpClose}},
		{zone.Full, capacity, []disk.Op{disk.OpWrite}},
		{zone.Full, 24, []disk.Op{disk.OpWrite, disk.OpFinish}},
		{zone.Full, 0, []disk.Op{disk.OpFinish}},
		{zone.ReadOnly, 0, nil},
		{zone.Offline, 0, nil},
		{zone.NotWP, 0, nil},
	}
}

// Every request in every state with every kind of argument, each outcome and
// what it leaves held against the model.
func suiteMatrix(t *testing.T, rig SuiteRig) {
	for name, g := range SuiteGeometries {
		t.Run(name, func(t *testing.T) {
			if err := g.Complete(); err != nil {
				t.Fatal(err)
			}
			const ro, off = 6, 7
			m := NewModel(g)
			d := rig.OpenWith(t, g, map[int]zone.State{ro: zone.ReadOnly, off: zone.Offline})
			m.set(ro, zone.ReadOnly)
			m.set(off, zone.Offline)
			w := NewTwin(t, d, m)
			last := len(m.Zones) - 1
			for _, i := range []int{4, last} {
				z := &m.Zones[i]
				for _, s := range suiteStates(z.Writable - z.Start) {
					target := i
					switch s.state {
					case zone.ReadOnly:
						target = ro
					case zone.Offline:
						target = off
					case zone.NotWP:
						target = g.ConventionalZones - 1
					}
					if target >= 0 {
						w.matrix(target, s)
					}
				}
			}
			w.CompareAll()
			t.Logf("%d requests", w.Cases)
		})
	}
}

// matrix sends every request to zone i in state s.
func (w *Twin) matrix(i int, s suiteState) {
	z := &w.m.Zones[i]
	block := uint64(w.m.Geom.BlockSize) / disk.SectorSize
	dirty := true
	for _, r := range w.arguments(i) {
		if dirty {
			w.prepare(i, s)
		}
		before := *z
		ok := w.Both(r)
		// Only what changed has to be looked at and put back.
		dirty = z.State != before.State || z.WP != before.WP || r.Op == disk.OpResetAll || r.Op == disk.OpWrite && before.State == zonemodel.NotWP
		if !ok || !w.CompareZones() || dirty && !w.CompareData(i) {
			w.T.Fatalf("with zone %d in state %v, %d sectors written, block of %d sectors", i, s.state, s.written, block)
		}
	}
}

// prepare brings zone i into state s.
func (w *Twin) prepare(i int, s suiteState) {
	w.T.Helper()
	z := &w.m.Zones[i]
	if s.state == zone.NotWP || s.state == zone.ReadOnly || s.state == zone.Offline {
		return
	}
	w.Both(w.NewRequest(disk.OpReset, z.Start, 0))
	for _, op := range s.steps {
		n := uint64(0)
		if op == disk.OpWrite {
			n = s.written * disk.SectorSize
		}
		w.Both(w.NewRequest(op, z.Start, n))
	}
	if zone.State(z.State) != s.state || s.state != zone.Full && z.WP != z.Start+s.written {
		w.T.Fatalf("zone %d is %v after what should make it %v", i, z.State, s.state)
	}
}

// arguments are requests around zone i: in range, at and past the edges,
// misaligned, empty, larger than the append limit, spanning zones.
func (w *Twin) arguments(i int) (rs []*disk.Request) {
	z := &w.m.Zones[i]
	block := uint64(w.m.Geom.BlockSize) / disk.SectorSize
	limit := uint64(w.m.Geom.MaxAppendSectors)
	sectors := []uint64{
		z.Start, z.Start + 24, z.Start + 24 + block, z.Start + 24 - block, z.Start + 25, z.Start + 1,
		z.Writable - block, z.Writable, z.End - block, z.End - 1,
		z.End, w.m.Geom.CapacitySectors, 1<<63 + 8, 1<<64 - 8, 1<<64 - 1,
	}
	capacity := z.Writable - z.Start
	lengths := []uint64{
		0, block * 512, 512, 511, 4096, 1, block*512 + 512,
		(capacity - 24) * 512, (capacity - 24 + block) * 512, capacity * 512, (capacity + block) * 512,
		(z.End - z.Start) * 512, (z.End - z.Start + block) * 512,
		limit * 512, (limit + block) * 512,
	}
	for _, op := range []disk.Op{disk.OpRead, disk.OpWrite, disk.OpAppend} {
		for _, sector := range sectors {
			for _, n := range lengths {
				rs = append(rs, w.NewRequest(op, sector, n))
			}
		}
	}
	for _, op := range []disk.Op{disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset} {
		for _, sector := range sectors {
			rs = append(rs, w.NewRequest(op, sector, 0))
		}
		// Twice: "and the zone stays in" its state.
		rs = append(rs, w.NewRequest(op, z.Start, 0), w.NewRequest(op, z.Start, 0))
	}
	return append(rs,
		w.NewRequest(disk.OpFlush, 0, 0),
		&disk.Request{Op: disk.OpDiscard, Ranges: []disk.Range{{Sector: z.Start, Sectors: 8}}},
		&disk.Request{Op: disk.OpWriteZeroes, Ranges: []disk.Range{{Sector: z.WP, Sectors: 8}}},
		&disk.Request{Op: disk.NumOps},
		w.NewRequest(disk.OpResetAll, 0, 0),
	)
}

// "A device MUST set the status byte to VIRTIO_BLK_S_IOERR for a write request
// if the VIRTIO_BLK_F_RO feature if offered, and MUST NOT write any data."
func suiteReadOnlyDisk(t *testing.T, rig SuiteRig) {
	for name, g := range SuiteGeometries {
		m := NewModel(g)
		d := rig.OpenReadOnly(t, g, func(d disk.Disk) {
			w := NewTwin(t, d, m)
			for _, s := range suiteStates(uint64(g.ZoneSectors))[:5] {
				i := 2 + len(m.Opened)*2
				w.prepare(i, s)
			}
			if g.ConventionalZones > 0 {
				w.Both(w.NewRequest(disk.OpWrite, 8, 4096))
			}
		})
		if !d.Info().ReadOnly {
			t.Errorf("%s: the disk does not say that it is read-only", name)
		}
		m.ReadOnly = true
		w := NewTwin(t, d, m)
		for _, i := range []int{0, 2, 4, len(m.Zones) - 1} {
			for _, r := range w.arguments(i) {
				w.Both(r)
			}
		}
		w.CompareAll()
	}
}
