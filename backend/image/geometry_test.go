package image_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// Each setting that cannot be is refused in one line that says which it is.
func TestGeometryRefused(t *testing.T) {
	good := zone.Geometry{CapacitySectors: 1024, ZoneSectors: 128}
	for name, c := range map[string]struct {
		change func(*zone.Geometry)
		want   string
	}{
		"block size":          {func(g *zone.Geometry) { g.BlockSize = 1024 }, "block size 1024"},
		"no zone size":        {func(g *zone.Geometry) { g.ZoneSectors = 0 }, "zone size: must be given"},
		"zone not power of 2": {func(g *zone.Geometry) { g.ZoneSectors = 96 }, "power of two"},
		"zone below block":    {func(g *zone.Geometry) { g.ZoneSectors, g.BlockSize = 4, 4096 }, "zone size 2048 bytes"},
		"zone too large":      {func(g *zone.Geometry) { g.ZoneSectors = 1 << 32 }, "to 1 TiB"},
		"no capacity":         {func(g *zone.Geometry) { g.CapacitySectors = 0 }, "disk size: must be given"},
		"too large":           {func(g *zone.Geometry) { g.CapacitySectors = zone.MaxDiskSectors + 1 }, "must be at most"},
		"part of a block":     {func(g *zone.Geometry) { g.CapacitySectors, g.BlockSize = 1028, 4096 }, "multiple of the block size"},
		"too many zones":      {func(g *zone.Geometry) { g.CapacitySectors = 128 * (zone.MaxZones + 1) }, "zones are too many"},
		"capacity above size": {func(g *zone.Geometry) { g.ZoneCapacitySectors = 129 }, "must not exceed the zone size"},
		"capacity in part":    {func(g *zone.Geometry) { g.ZoneCapacitySectors, g.BlockSize = 100, 4096 }, "zone capacity 51200 bytes"},
		"conventional":        {func(g *zone.Geometry) { g.ConventionalZones = 8 }, "conventional zones 8: must be from 0 to 7"},
		"negative":            {func(g *zone.Geometry) { g.ConventionalZones = -1 }, "conventional zones -1"},
		"open above active":   {func(g *zone.Geometry) { g.MaxOpen, g.MaxActive = 3, 2 }, "open zones limit 3"},
		"append too large":    {func(g *zone.Geometry) { g.MaxAppendSectors = 129 }, "append limit 66048 bytes: must not exceed"},
		"append in part":      {func(g *zone.Geometry) { g.MaxAppendSectors, g.BlockSize = 12, 4096 }, "append limit 6144 bytes: must be a multiple"},
	} {
		g := good
		c.change(&g)
		path := filepath.Join(t.TempDir(), "image")
		err := image.Create(path, g)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: a file is left behind", name)
		}
	}
	if err := good.Complete(); err != nil {
		t.Error(err)
	}
	if want := (zone.Geometry{CapacitySectors: 1024, ZoneSectors: 128, ZoneCapacitySectors: 128, MaxAppendSectors: 128, BlockSize: 512}); good != want {
		t.Errorf("completed to %+v, want %+v", good, want)
	}
}

// A new image never takes the place of another file.
func TestCreateRefusesExisting(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	err := image.Create(path, disktest.Small)
	if err == nil || !strings.Contains(err.Error(), "the file exists") {
		t.Errorf("got %v", err)
	}
	imagetest.WantClean(t, path)
	if err := image.Create(filepath.Join(t.TempDir(), "no", "image"), disktest.Small); err == nil {
		t.Error("created in a directory that is not there")
	}
}

// The smallest and oddest disks that make sense: one zone, zones of one block,
// a last zone of one block, all but one conventional.
func TestSmallestDisks(t *testing.T) {
	for _, g := range []zone.Geometry{
		{CapacitySectors: 1, ZoneSectors: 1},
		{CapacitySectors: 8, ZoneSectors: 8, BlockSize: 4096},
		{CapacitySectors: 3, ZoneSectors: 1},
		{CapacitySectors: 129, ZoneSectors: 128},
		{CapacitySectors: 1024, ZoneSectors: 128, ConventionalZones: 7},
		{CapacitySectors: 1, ZoneSectors: 1 << 31, MaxOpen: 1, MaxActive: 1},
		{CapacitySectors: 508, ZoneSectors: 1},
		{CapacitySectors: 509, ZoneSectors: 1},
	} {
		path := imagetest.New(t, g)
		d := openDisk(t, path)
		c := disktest.NewClient(t, d)
		last := d.Info().Zoned.Zones - 1
		z := d.ReportZone(last)
		data := disktest.Pattern('a', int(z.Capacity<<disk.SectorShift))
		c.WantError(c.Write(z.Start, data), nil)
		c.WantZone(last, zone.Full, z.Capacity)
		c.WantError(c.Write(z.Start+z.Length, data), disk.ErrRange)
		if got := c.Read(z.Start, len(data)); string(got) != string(data) {
			t.Errorf("%+v: the data is not what was written", g)
		}
		c.WantError(c.ZoneOp(disk.OpReset, z.Start), nil)
		c.WantZone(last, zone.Empty, 0)
		imagetest.CloseDisk(t, d, path)
	}
}
