package backend

import (
	"os"
	"testing"

	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// What a crash leaves is no damage.
func TestCheckIsSilentOnGoodImages(t *testing.T) {
	for name, g := range map[string]zone.Geometry{"small": disktest.Small, "wide": wide, "512": disktest.SuiteGeometries["512"], "4096": disktest.SuiteGeometries["4096"]} {
		path := imagetest.New(t, g)
		imagetest.WantClean(t, path)
		d, fs := openFaulty(t, path)
		m := disktest.NewModel(g)
		if name == "small" {
			manyStates(disktest.NewTwin(t, d, m))
		}
		kill(t, d, fs)
		imagetest.WantClean(t, path)
		imagetest.CutPower(t, path)
		imagetest.WantClean(t, path)
		d2 := openDisk(t, path)
		imagetest.CloseDisk(t, d2, path)
	}
}

// What a power cut leaves may show more zones open than can be: a commit looks at
// them one after the other, and they come back closed. The limit on open zones
// is none on them.
func TestCheckAfterPowerCut(t *testing.T) {
	g := disktest.Small
	g.MaxOpen, g.MaxActive = 1, 0
	path := imagetest.New(t, g)
	d, fs := openFaulty(t, path)
	kill(t, d, fs)
	imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
		imagetest.SetEntries(t, f, l, map[int]zone.Entry{2: zone.Pack(2, zone.ImpOpen, 8), 3: zone.Pack(3, zone.ImpOpen, 8)})
	})
	imagetest.CutPower(t, path)
	imagetest.WantClean(t, path)
	imagetest.CloseDisk(t, openDisk(t, path), path)
}

// A repair of an image that a daemon left in use keeps what guests were told.
func TestRepairAfterKill(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('k', 4096)), nil)
	kill(t, d, fs)
	imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
		imagetest.Patch(t, f, []byte("x"), format.SuperOff+70)
		imagetest.Patch(t, f, []byte("x"), format.StateOff+3)
		imagetest.Patch(t, f, []byte("x"), l.TableOff+100)
	})
	if mended, err := image.Repair(path, image.RepairSafe); err != nil || len(mended) != 3 {
		t.Errorf("mended %q, %v", mended, err)
	}
	d2 := openDisk(t, path)
	c = disktest.NewClient(t, d2)
	c.WantZone(2, zone.ImpOpen, 8)
	imagetest.CloseDisk(t, d2, path)
}
