package image_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A superblock and a copy that are both whole and differ: the image is not opened; the one
// that goes with the rest of the file is taken, where that is one of them, and else nobody
// guesses: the operator says which.
func TestSuperblocksThatDiffer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*format.Layout) // what makes the wrong one of the right one
		says   bool                 // the rest of the file says which is right
		want   string               // in the finding
	}{
		{"zone size", func(l *format.Layout) {
			*l = with(l, func(g *zone.Geometry) { g.ZoneSectors, g.ZoneCapacitySectors = 64, 64 })
		}, true, "zone size"},
		{"larger", func(l *format.Layout) { *l = with(l, func(g *zone.Geometry) { g.CapacitySectors += g.ZoneSectors }) }, true, "it was cut short"},
		{"smaller", func(l *format.Layout) { *l = with(l, func(g *zone.Geometry) { g.CapacitySectors -= g.ZoneSectors }) }, true, "and its zones need"},
		{"smaller by many zones", func(l *format.Layout) { *l = with(l, func(g *zone.Geometry) { g.CapacitySectors = g.ZoneSectors * 3 }) }, true, "and its zones need"},
		{"conventional zones", func(l *format.Layout) { l.ConventionalZones++ }, true, "but the zone is"},
		{"zone capacity", func(l *format.Layout) { l.ZoneCapacitySectors -= 8 }, true, "above its capacity"},
		{"block size", func(l *format.Layout) { l.BlockSize = 4096 }, true, "not a whole block"},
		{"another image", func(l *format.Layout) { l.UUID[3]++ }, true, "both state blocks are damaged"},
		{"faults that are not there", func(l *format.Layout) { l.Compat |= format.FeatureFaults }, true, "the block of its faults is damaged"},
		{"a limit that is exceeded", func(l *format.Layout) { l.MaxActive, l.MaxOpen = 1, 1 }, true, "too many active zones"},
		{"a limit", func(l *format.Layout) { l.MaxActive = 14 }, false, "active zones limit"},
		{"append limit", func(l *format.Layout) { l.MaxAppendSectors = 8 }, false, "append limit"},
		{"unknown feature", func(l *format.Layout) { l.Compat |= 1 << 9 }, false, "compatible features"},
		{"time", func(l *format.Layout) { l.Created++ }, false, "time of creation"},
	} {
		for wrong, off := range []int64{format.SuperOff, format.SuperCopyOff} {
			t.Run(tt.name+" of the "+format.SuperNames[wrong], func(t *testing.T) {
				path := imagetest.New(t, zone.Geometry{CapacitySectors: 16 * 128, ZoneSectors: 128, ZoneCapacitySectors: 96, ConventionalZones: 2, MaxAppendSectors: 32})
				d := openDisk(t, path)
				c := disktest.NewClient(t, d)
				full := disktest.Pattern('f', 96*disk.SectorSize)
				c.WantError(c.Write(2*128, full), nil)
				c.WantError(c.Write(3*128, full[:disk.SectorSize]), nil)
				c.WantError(c.Write(4*128, full[:disk.SectorSize]), nil)
				imagetest.CloseDisk(t, d, path)
				imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
					other := *l
					tt.change(&other)
					imagetest.Patch(t, f, other.EncodeSuper(), off)
				})
				before := imagetest.Contents(t, path)

				if _, err := backend.Open(path, disk.Options{}); !errors.Is(err, disk.ErrDamaged) || !strings.Contains(err.Error(), "the superblock and its copy differ in") {
					t.Errorf("open: %v", err)
				}
				findings, err := image.Check(path)
				if err != nil || len(findings) != 1 || findings[0].Where != format.SuperNames[1] || !strings.Contains(findings[0].What, tt.want) {
					t.Errorf("found %q, %v, want %q", findings, err, tt.want)
				}
				modes := [2]image.RepairMode{image.RepairSuperblock, image.RepairSuperblockCopy}
				right, mode := modes[1-wrong], modes[1-wrong]
				if tt.says {
					// What goes with nothing else in the file is not to be had.
					if mended, err := image.Repair(path, modes[wrong]); err == nil || len(mended) > 0 || !strings.Contains(err.Error(), "does not go with the rest of the file") {
						t.Errorf("mended %q, %v", mended, err)
					}
					mode = image.RepairSafe
				} else {
					if mended, err := image.Repair(path, image.RepairSafe); err != nil || len(mended) > 0 {
						t.Errorf("mended %q, %v", mended, err)
					}
					if len(findings) == 1 && (!strings.Contains(findings[0].Remedy, "--repair=superblock ") || !strings.Contains(findings[0].Remedy, "--repair=superblock-copy ")) {
						t.Errorf("the remedy is %q", findings[0].Remedy)
					}
				}
				if !bytes.Equal(imagetest.Contents(t, path), before) {
					t.Fatal("the file has changed")
				}
				if mended, err := image.Repair(path, mode); err != nil || len(mended) != 1 || mended[0].Where != format.SuperNames[wrong] {
					t.Errorf("%v: mended %q, %v", mode, mended, err)
				}
				if mended, err := image.Repair(path, right); err != nil || len(mended) > 0 {
					t.Errorf("%v: mended again: %q, %v", right, mended, err)
				}
				imagetest.WantClean(t, path)
				d = openDisk(t, path)
				disktest.NewClient(t, d).WantZone(2, zone.Full, 96)
				imagetest.CloseDisk(t, d, path)
			})
		}
	}
}

// with is the layout of the same image with another geometry.
func with(l *format.Layout, change func(*zone.Geometry)) format.Layout {
	g := l.Geometry
	change(&g)
	o := format.NewLayout(g)
	o.UUID, o.Created, o.Compat = l.UUID, l.Created, l.Compat
	return o
}
