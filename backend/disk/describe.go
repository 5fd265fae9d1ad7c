package disk

import (
	"math"

	"github.com/zvhost/zvhost/backend/zone"
)

// Describe is how a disk of geometry g describes itself.
func Describe(g *zone.Geometry, readOnly bool) Info {
	return Info{
		CapacitySectors:   g.CapacitySectors,
		LogicalBlockSize:  g.BlockSize,
		PhysicalBlockSize: max(g.BlockSize, 4096),
		ReadOnly:          readOnly,
		MaxEraseSectors:   uint32(math.MaxUint32 / g.ZoneSectors * g.ZoneSectors),
		Zoned: &ZonedInfo{
			Zones:            g.Zones(),
			ZoneSectors:      g.ZoneSectors,
			MaxOpen:          g.MaxOpen,
			MaxActive:        g.MaxActive,
			MaxAppendSectors: g.MaxAppendSectors,
			WriteGranularity: g.BlockSize,
		},
	}
}
