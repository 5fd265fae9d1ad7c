package disktest

import (
	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// DrawGeometry draws a small disk that can be.
func DrawGeometry(t *rapid.T) zone.Geometry {
	g := zone.Geometry{BlockSize: rapid.SampledFrom([]uint32{512, 4096}).Draw(t, "block size")}
	block := uint64(g.BlockSize) / disk.SectorSize
	g.ZoneSectors = rapid.SampledFrom([]uint64{8, 16, 64, 128}).Draw(t, "zone sectors")
	g.ZoneCapacitySectors = g.ZoneSectors
	if g.ZoneSectors > block {
		g.ZoneCapacitySectors = rapid.Uint64Range(1, g.ZoneSectors/block).Draw(t, "capacity blocks") * block
	}
	zones := rapid.Uint64Range(2, 10).Draw(t, "zones")
	g.CapacitySectors = (zones-1)*g.ZoneSectors + rapid.Uint64Range(1, g.ZoneSectors/block).Draw(t, "last zone blocks")*block
	g.ConventionalZones = rapid.IntRange(0, min(2, int(zones)-1)).Draw(t, "conventional")
	g.MaxActive = rapid.Uint32Range(0, 4).Draw(t, "max active")
	limit := uint32(4)
	if g.MaxActive != 0 {
		limit = g.MaxActive
	}
	g.MaxOpen = rapid.Uint32Range(0, limit).Draw(t, "max open")
	g.MaxAppendSectors = uint32(rapid.Uint64Range(1, g.ZoneCapacitySectors/block).Draw(t, "append limit blocks") * block)
	return g
}
