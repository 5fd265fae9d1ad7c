package imagetest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
)

// New creates an image of geometry g and returns its path.
func New(t testing.TB, g zone.Geometry) string {
	t.Helper()
	return NewIn(t, t.TempDir(), g)
}

// NewFast is New in memory where there is a directory in memory, for tests that sync
// thousands of times.
func NewFast(t testing.TB, g zone.Geometry) string {
	t.Helper()
	return NewIn(t, disktest.FastDir(t), g)
}

// NewIn creates an image of geometry g in dir and returns its path.
func NewIn(t disktest.TB, dir string, g zone.Geometry) string {
	t.Helper()
	path := filepath.Join(dir, "disk.zvh")
	if err := image.Create(path, g); err != nil {
		t.Fatal(err)
	}
	return path
}

// CloseDisk closes d and checks the image at path that it leaves.
func CloseDisk(t disktest.TB, d disk.Disk, path string) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	WantClean(t, path)
}

// WantClean checks that image.Check finds nothing in the image at path. Every test that
// leaves an image behind calls it.
func WantClean(t disktest.TB, path string) {
	t.Helper()
	findings, err := image.Check(path)
	if err != nil {
		t.Error(err)
	}
	for _, f := range findings {
		t.Errorf("check: %v", f)
	}
}

// Contents returns what the file at path holds.
func Contents(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
