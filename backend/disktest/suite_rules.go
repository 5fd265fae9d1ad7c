package disktest

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// Parts of the suite that hold rules of the specification against each other,
// where a request breaks more than one at once ("Device Operation").

// "All VIRTIO_BLK_T_OUT requests or VIRTIO_BLK_T_ZONE_APPEND requests issued to a
// zone in the VIRTIO_BLK_ZS_RDONLY state SHALL be completed with
// VIRTIO_BLK_S_ZONE_INVALID_CMD", "All requests issued to a zone in the
// VIRTIO_BLK_ZS_OFFLINE state SHALL be": all, whatever else is wrong with them.
func suiteStateFirst(t *testing.T, rig SuiteRig) {
	for _, name := range []string{"512", "4096"} {
		g := SuiteGeometries[name]
		last := g.Zones() - 1
		w := NewTwin(t, rig.OpenWith(t, g, map[int]zone.State{6: zone.ReadOnly, 7: zone.Offline, last: zone.Offline}), NewModel(g))
		w.m.set(6, zone.ReadOnly)
		w.m.set(7, zone.Offline)
		w.m.set(last, zone.Offline)
		for _, i := range []int{6, 7, last} {
			z := &w.m.Zones[i]
			for _, n := range []uint64{0, 1, 511, 512, 1000, 4096, (z.End - z.Start + 8) * disk.SectorSize} {
				for _, sector := range []uint64{z.Start, z.Start + 1, z.Start + 8, z.End - 1} {
					for _, op := range []disk.Op{disk.OpRead, disk.OpWrite, disk.OpAppend} {
						r := w.NewRequest(op, sector, n)
						w.Both(r)
						if op != disk.OpRead || z.State == zonemodel.Offline {
							w.WantError(r.Err, zone.ErrInvalid)
						}
					}
				}
			}
		}
		w.CompareAll()
	}
}

// "If the zone specified by the VIRTIO_BLK_T_ZONE_APPEND request is not a SWR
// zone", and "if the sector field in the VIRTIO_BLK_T_ZONE_APPEND request does not
// specify the lowest sector for a zone": not the sector behind the disk either.
func suiteAppendNeedsAZone(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["512"]
	w := NewTwin(t, rig.Open(t, g), NewModel(g))
	for _, n := range []uint64{0, 1, 512, 513} {
		for _, sector := range []uint64{0, 128, 257, g.CapacitySectors - 1, g.CapacitySectors, g.CapacitySectors + 64, 1<<64 - 1} {
			r := w.NewRequest(disk.OpAppend, sector, n)
			w.Both(r)
			w.WantError(r.Err, zone.ErrInvalid)
		}
	}
	// A part of a sector is what the granularity forbids.
	r := w.NewRequest(disk.OpAppend, 256, 513)
	w.Both(r)
	w.WantError(r.Err, zone.ErrUnaligned)
	r = w.NewRequest(disk.OpWrite, 256, 513)
	w.Both(r)
	w.WantError(r.Err, zone.ErrUnaligned)
	w.CompareAll()
}

// "the data range that exceeds the remaining writable capacity for the zone":
// where the zone is the last one, it is past the disk too.
func suiteLastZoneCapacity(t *testing.T, rig SuiteRig) {
	for _, g := range SuiteGeometries {
		w := NewTwin(t, rig.Open(t, g), NewModel(g))
		z := &w.m.Zones[len(w.m.Zones)-1]
		for _, op := range []disk.Op{disk.OpWrite, disk.OpAppend} {
			w.Both(w.NewRequest(disk.OpWrite, z.WP, 4096))
			sector := z.WP
			if op == disk.OpAppend {
				sector = z.Start
			}
			r := w.NewRequest(op, sector, (z.End-z.Start)*disk.SectorSize)
			w.Both(r)
			w.WantError(r.Err, zone.ErrInvalid)
		}
		w.CompareAll()
	}
}

// On a read-only disk no zone can change its state: "If the transition to this
// state can not be performed, the request MUST be completed with
// VIRTIO_BLK_S_ZONE_INVALID_CMD"; where the zone stays in its state, "the request
// is completed successfully".
func suiteReadOnlyManagement(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["512"]
	m := NewModel(g)
	d := rig.OpenReadOnly(t, g, func(d disk.Disk) {
		w := NewTwin(t, d, m)
		w.Both(w.NewRequest(disk.OpFinish, m.Zones[3].Start, 0))
		w.Both(w.NewRequest(disk.OpWrite, m.Zones[4].Start, 4096))
		w.Both(w.NewRequest(disk.OpClose, m.Zones[4].Start, 0))
	})
	m.ReadOnly = true
	w := NewTwin(t, d, m)
	for zn, want := range map[int]map[disk.Op]error{
		0: {disk.OpOpen: zone.ErrInvalid, disk.OpClose: zone.ErrInvalid, disk.OpFinish: zone.ErrInvalid, disk.OpReset: zone.ErrInvalid}, // conventional
		2: {disk.OpOpen: zone.ErrInvalid, disk.OpClose: zone.ErrInvalid, disk.OpFinish: zone.ErrInvalid, disk.OpReset: nil},             // empty
		3: {disk.OpOpen: zone.ErrInvalid, disk.OpClose: zone.ErrInvalid, disk.OpFinish: nil, disk.OpReset: zone.ErrInvalid},             // full
		4: {disk.OpOpen: zone.ErrInvalid, disk.OpClose: nil, disk.OpFinish: zone.ErrInvalid, disk.OpReset: zone.ErrInvalid},             // closed
	} {
		for op, err := range want {
			r := w.NewRequest(op, m.Zones[zn].Start, 0)
			w.Both(r)
			w.WantError(r.Err, err)
		}
	}
	w.CompareAll()
}

// A conventional zone stays one when it goes out of service: type, capacity and
// write pointer do not change with its state.
func suiteConventionalOutOfService(t *testing.T, rig SuiteRig) {
	g := SuiteGeometries["512"]
	w := NewTwin(t, rig.OpenWith(t, g, map[int]zone.State{0: zone.ReadOnly, 1: zone.Offline}), NewModel(g))
	w.m.set(0, zone.ReadOnly)
	w.m.set(1, zone.Offline)
	for _, sector := range []uint64{0, 8, 120, 128, 136, 250} {
		for _, n := range []uint64{0, 512, 513, 8192} {
			for _, op := range []disk.Op{disk.OpRead, disk.OpWrite, disk.OpAppend, disk.OpReset} {
				w.Both(w.NewRequest(op, sector, n))
			}
		}
	}
	w.CompareAll()
}
