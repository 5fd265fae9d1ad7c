package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// The image is the first disk to run the suite.
func TestZonedSuiteOnImage(t *testing.T) {
	disktest.RunSuite(t, disktest.SuiteRig{Open: suiteImage, OpenWith: suiteImageWith, OpenReadOnly: suiteImageReadOnly})
}

func suiteImage(t testing.TB, g zone.Geometry) disk.Disk { return suiteImageWith(t, g, nil) }

func suiteImageWith(t testing.TB, g zone.Geometry, zones map[int]zone.State) disk.Disk {
	t.Helper()
	path := imagetest.NewFast(t, g)
	imagetest.SetStates(t, path, zones)
	d := openDisk(t, path)
	t.Cleanup(func() { imagetest.CloseDisk(t, d, path) })
	return d
}

func suiteImageReadOnly(t testing.TB, g zone.Geometry, fill func(disk.Disk)) disk.Disk {
	t.Helper()
	path := imagetest.NewFast(t, g)
	d := openDisk(t, path)
	fill(d)
	imagetest.CloseDisk(t, d, path)
	d, err := Open(path, disk.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		imagetest.CloseDisk(t, d, path)
		imagetest.CloseDisk(t, openDisk(t, path), path)
	})
	return d
}
