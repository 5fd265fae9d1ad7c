package backend

import (
	"path/filepath"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
)

func newImage(t testing.TB, g zone.Geometry) string {
	t.Helper()
	return newImageIn(t, t.TempDir(), g)
}

// newFastImage is for tests that sync thousands of times: it stands in memory
// where that can be had.
func newFastImage(t testing.TB, g zone.Geometry) string {
	t.Helper()
	return newImageIn(t, disktest.FastDir(t), g)
}

func newImageIn(t disktest.TB, dir string, g zone.Geometry) string {
	t.Helper()
	path := filepath.Join(dir, "disk.zvh")
	if err := image.Create(path, g); err != nil {
		t.Fatal(err)
	}
	return path
}

// closeDisk closes d, and checks the image that it leaves.
func closeDisk(t disktest.TB, d disk.Disk, path string) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	wantClean(t, path)
}

func openDisk(t disktest.TB, path string) disk.Disk {
	t.Helper()
	d, err := Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// wantClean runs the checker, as every test does that leaves an image behind.
func wantClean(t disktest.TB, path string) {
	t.Helper()
	findings, err := image.Check(path)
	if err != nil {
		t.Error(err)
	}
	for _, f := range findings {
		t.Errorf("check: %v", f)
	}
}
