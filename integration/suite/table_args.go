package suite

import (
	"slices"

	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/virtio/driver"
)

// arguments are requests around zone i: in range, at and past the edges,
// misaligned, empty, larger than the append limit, spanning zones. short leaves
// out those that do not depend on where the zone lies.
func (t *table) arguments(i int, short bool) (ops []Op) {
	z := t.Model.Zones[i]
	block, some := t.block(), t.some(i)
	size, capacity := z.End-z.Start, z.Writable-z.Start
	limit := uint64(t.Model.MaxAppendSectors)

	sectors := []uint64{
		z.Start, z.Start + some, z.Start + some + block, z.Writable - block, z.Writable, z.End - block,
	}
	lengths := []uint64{
		block, capacity - some, capacity - some + block, capacity + block, size + block,
	}
	if !short {
		sectors = append(sectors, z.Start+some-block, z.Start+some+1, z.Start+1, z.End-1,
			z.End, t.Model.CapacitySectors-1, t.Model.CapacitySectors, 1<<63+8, 1<<64-8, 1<<64-1)
		lengths = append(lengths, 0, 8, capacity, size, limit, limit+block)
	}
	bytes := make([]uint64, 0, len(lengths)+4)
	for _, n := range lengths {
		bytes = append(bytes, n*zonemodel.SectorBytes)
	}
	if !short {
		bytes = append(bytes, 1, 511, 512, block*zonemodel.SectorBytes+512)
	}
	sectors, bytes = unique(sectors), unique(bytes)
	for _, typ := range []uint32{driver.TypeIn, driver.TypeOut, driver.TypeZoneAppend} {
		for _, sector := range sectors {
			for _, n := range bytes {
				ops = append(ops, Op{Type: typ, Sector: sector, Bytes: n})
			}
		}
	}
	for _, typ := range []uint32{driver.TypeZoneOpen, driver.TypeZoneClose, driver.TypeZoneFinish, driver.TypeZoneReset} {
		for _, sector := range sectors {
			ops = append(ops, Op{Type: typ, Sector: sector})
		}
		// Twice more: "and the zone stays in" its state.
		ops = append(ops, Op{Type: typ, Sector: z.Start}, Op{Type: typ, Sector: z.Start})
	}
	ops = append(ops, t.erases(i)...)
	if !short {
		ops = append(ops, t.reports(i)...)
		ops = append(ops, others(z.Start, block)...)
	}
	return append(ops, Op{Type: driver.TypeZoneResetAll, Sector: z.Start})
}

func unique(s []uint64) []uint64 {
	slices.Sort(s)
	return slices.Compact(s)
}

// erases are secure erases around zone i: of it, with its neighbours, of parts,
// past the end, with flags that mean something or nothing.
func (t *table) erases(i int) (ops []Op) {
	z := t.Model.Zones[i]
	size := (z.End - z.Start) * zonemodel.SectorBytes
	block := uint64(t.Model.BlockBytes)
	all := []Op{
		{Sector: z.Start, Bytes: size},
		{Sector: z.Start, Bytes: size, Flags: 1},
		{Sector: z.Start, Bytes: size, Flags: 2},
		{Sector: z.Start, Bytes: 2 * size},
		{Sector: z.Start, Bytes: size - block},
		{Sector: z.Start + t.block(), Bytes: size - block},
		{Sector: z.Start, Bytes: size + block},
		{Sector: z.End, Bytes: size},
		{Sector: t.Model.CapacitySectors, Bytes: size},
		{Sector: 1<<64 - 8, Bytes: size},
	}
	if i > 0 {
		all = append(all, Op{Sector: z.Start - t.Model.ZoneSectors, Bytes: t.Model.ZoneSectors*zonemodel.SectorBytes + size})
	}
	most := uint64(t.disk.Config.MaxEraseSectors) * zonemodel.SectorBytes
	for _, o := range all {
		if o.Type = driver.TypeSecureErase; !t.Model.CanErase || o.Bytes <= most {
			ops = append(ops, o)
		}
	}
	return ops
}

// reports are reports that begin around zone i: with room for the header alone,
// for all zones and more, for some, for parts of one, for less than the header.
func (t *table) reports(i int) (ops []Op) {
	z := t.Model.Zones[i]
	const header, descriptor = driver.ReportHeaderBytes, driver.ZoneDescriptorBytes
	all := uint64(header + len(t.Model.Zones)*descriptor)
	for _, sector := range []uint64{
		0, z.Start, z.Start + 1, z.End - 1, z.End, t.Model.CapacitySectors - 1,
		t.Model.CapacitySectors, t.Model.CapacitySectors + t.Model.ZoneSectors, 1<<64 - 1,
	} {
		for _, room := range []uint64{
			0, 1, header - 1, header, header + 1, header + descriptor - 1, header + descriptor, header + 2*descriptor + 17,
			all - 1, all, all + descriptor, min(all+4096, uint64(t.buffer)),
		} {
			ops = append(ops, Op{Type: driver.TypeZoneReport, Sector: sector, Bytes: room})
		}
	}
	return ops
}

// others are requests that zoned disks share with ordinary ones, that they do not
// have, and that nobody has: the types between those of the specification, those
// of older ones, and the largest there is.
func others(sector, block uint64) []Op {
	ops := []Op{
		{Type: driver.TypeFlush}, {Type: driver.TypeFlush, Sector: sector},
		{Type: driver.TypeGetID, Bytes: driver.IDBytes},
		{Type: driver.TypeGetLifetime, Bytes: 6},
		{Type: driver.TypeDiscard, Sector: sector, Bytes: block * zonemodel.SectorBytes},
		{Type: driver.TypeWriteZeroes, Sector: sector, Bytes: block * zonemodel.SectorBytes},
		{Type: driver.TypeWriteZeroes, Sector: sector, Bytes: block * zonemodel.SectorBytes, Flags: 1},
	}
	for _, typ := range []uint32{2, 3, 5, 6, 7, 9, 12, 17, 19, 21, 23, 25, 27, 28, 1 << 31, 1<<32 - 1} {
		ops = append(ops, Op{Type: typ, Sector: sector}, Op{Type: typ, Sector: sector, Bytes: 512})
	}
	return ops
}
