package zone

import (
	"fmt"
	"math/bits"
)

// Geometry is what a zoned image is created with. A zero field takes its
// default in Complete.
type Geometry struct {
	CapacitySectors     uint64 // the whole disk; whole logical blocks
	ZoneSectors         uint64 // a power of two; the last zone may be smaller
	ZoneCapacitySectors uint64 // writable sectors of a zone; default ZoneSectors
	ConventionalZones   int    // how many of the first zones have no write pointer
	MaxOpen             uint32 // zones; 0: no limit
	MaxActive           uint32 // zones; 0: no limit
	MaxAppendSectors    uint32 // default 1 MiB, or the zone capacity if that is less
	BlockSize           uint32 // logical block size in bytes, 512 or 4096; default 512
}

const (
	// MaxZones bounds the number of zones of an image, so that its tables, and
	// the memory to serve it, stay sensible: 4 Mi zones.
	MaxZones = 1 << 22
	// maxDiskSectors bounds the disk at 8 EiB less one zone table, so that byte
	// offsets fit an int64.
	MaxDiskSectors = 1 << 53

	defaultAppendSectors = 1 << 20 >> sectorShift

	sectorShift = 9 // log2 of the bytes of a sector
)

// Zones is the number of zones, the last of which may be smaller.
func (g *Geometry) Zones() int {
	return int((g.CapacitySectors + g.ZoneSectors - 1) / g.ZoneSectors)
}

// Complete fills in the defaults and validates. An error says in one line which
// setting is wrong and what it may be.
func (g *Geometry) Complete() error {
	if g.BlockSize == 0 {
		g.BlockSize = 512
	}
	if g.BlockSize != 512 && g.BlockSize != 4096 {
		return fmt.Errorf("block size %d: must be 512 or 4096", g.BlockSize)
	}
	block := uint64(g.BlockSize) >> sectorShift
	whole := func(what string, sectors uint64) error {
		if sectors%block != 0 {
			return fmt.Errorf("%s %d bytes: must be a multiple of the block size, %d", what, sectors<<sectorShift, g.BlockSize)
		}
		return nil
	}

	switch {
	case g.ZoneSectors == 0:
		return fmt.Errorf("zone size: must be given, a power of two of at least %d bytes", g.BlockSize)
	case bits.OnesCount64(g.ZoneSectors) != 1 || g.ZoneSectors < block || g.ZoneSectors > 1<<31:
		return fmt.Errorf("zone size %d bytes: must be a power of two from %d bytes to 1 TiB (Linux takes no other)", g.ZoneSectors<<sectorShift, g.BlockSize)
	case g.CapacitySectors == 0:
		return fmt.Errorf("disk size: must be given, at least one block of %d bytes", g.BlockSize)
	case g.CapacitySectors > MaxDiskSectors:
		return fmt.Errorf("disk size %d sectors: must be at most %d", g.CapacitySectors, uint64(MaxDiskSectors))
	}
	if err := whole("disk size", g.CapacitySectors); err != nil {
		return err
	}
	if n := (g.CapacitySectors-1)/g.ZoneSectors + 1; n > MaxZones {
		return fmt.Errorf("zone size %d bytes: %d zones are too many, at most %d; use larger zones", g.ZoneSectors<<sectorShift, n, MaxZones)
	}

	if g.ZoneCapacitySectors == 0 {
		g.ZoneCapacitySectors = g.ZoneSectors
	}
	if g.ZoneCapacitySectors > g.ZoneSectors {
		return fmt.Errorf("zone capacity %d bytes: must not exceed the zone size, %d bytes", g.ZoneCapacitySectors<<sectorShift, g.ZoneSectors<<sectorShift)
	}
	if err := whole("zone capacity", g.ZoneCapacitySectors); err != nil {
		return err
	}

	if g.ConventionalZones < 0 || g.ConventionalZones >= g.Zones() {
		return fmt.Errorf("conventional zones %d: must be from 0 to %d, so that at least one of the %d zones is sequential", g.ConventionalZones, g.Zones()-1, g.Zones())
	}
	if g.MaxActive != 0 && g.MaxOpen > g.MaxActive {
		return fmt.Errorf("open zones limit %d: must not exceed the active zones limit, %d (an open zone is an active zone)", g.MaxOpen, g.MaxActive)
	}

	if g.MaxAppendSectors == 0 {
		g.MaxAppendSectors = uint32(min(defaultAppendSectors, g.ZoneCapacitySectors))
	}
	if uint64(g.MaxAppendSectors) > g.ZoneCapacitySectors {
		return fmt.Errorf("append limit %d bytes: must not exceed the zone capacity, %d bytes", uint64(g.MaxAppendSectors)<<sectorShift, g.ZoneCapacitySectors<<sectorShift)
	}
	return whole("append limit", uint64(g.MaxAppendSectors))
}

// Conventional says whether zone i has no write pointer.
func (g *Geometry) Conventional(i int) bool { return i < g.ConventionalZones }

// Length is the number of sectors of zone i.
func (g *Geometry) Length(i int) uint64 {
	return min(g.ZoneSectors, g.CapacitySectors-uint64(i)*g.ZoneSectors)
}

// Capacity is the number of writable sectors of zone i. A conventional zone is
// writable to its end.
func (g *Geometry) Capacity(i int) uint64 {
	if g.Conventional(i) {
		return g.Length(i)
	}
	return min(g.ZoneCapacitySectors, g.Length(i))
}

// Zone is what a report says of zone i when its table entry is w.
func (g *Geometry) Zone(i int, w Entry) Descriptor {
	typ := SequentialWriteRequired
	if g.Conventional(i) { // read-only and offline ones too
		typ = Conventional
	}
	return Describe(uint64(i)*g.ZoneSectors, g.Length(i), g.Capacity(i), typ, w)
}

// Describe is what a report says of a zone whose table entry is w.
func Describe(start, length, capacity uint64, typ Type, w Entry) Descriptor {
	z := Descriptor{Start: start, Length: length, Capacity: capacity, WP: start + w.Written(), Type: typ, State: w.State()}
	switch {
	case typ == Conventional:
	case z.State == Full:
		z.WP = z.Start + z.Length
	case z.State == Offline:
		z.WP = z.Start
	}
	return z
}
