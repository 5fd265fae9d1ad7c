package backend

import (
	"math"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// describe is how a disk of geometry g describes itself.
func describe(g *zone.Geometry, readOnly bool) disk.Info {
	return disk.Info{
		CapacitySectors:   g.CapacitySectors,
		LogicalBlockSize:  g.BlockSize,
		PhysicalBlockSize: max(g.BlockSize, 4096),
		ReadOnly:          readOnly,
		MaxEraseSectors:   uint32(math.MaxUint32 / g.ZoneSectors * g.ZoneSectors),
		Zoned: &disk.ZonedInfo{
			Zones:            g.Zones(),
			ZoneSectors:      g.ZoneSectors,
			MaxOpen:          g.MaxOpen,
			MaxActive:        g.MaxActive,
			MaxAppendSectors: g.MaxAppendSectors,
			WriteGranularity: g.BlockSize,
		},
	}
}
