package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
)

// An image is synced by a description of its own, of the file that it is, also
// when the path is another file's by now; one that is only read has none.
func TestSyncsAreTheFiles(t *testing.T) {
	for _, o := range []disk.Options{{}, {Direct: true}} {
		path := createSmall(t)
		img, err := Open(path, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, path+".moved"); err != nil {
			t.Fatal(err)
		}
		again, err := disk.OpenSyncs(img.File)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*os.File{img.Syncs, again} {
			is, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if was, err := img.File.Stat(); err != nil || !os.SameFile(is, was) {
				t.Errorf("not the image: %v", err)
			}
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
		// Its end is not the lock's.
		if _, err := Open(path+".moved", disk.Options{}, nil); !disk.IsInUse(err) {
			t.Errorf("opened twice: %v", err)
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
	img, err := Open(createSmall(t), disk.Options{ReadOnly: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if img.Syncs != nil {
		t.Error("an image that is only read is open for more")
	}
	if err := img.Close(); err != nil {
		t.Error(err)
	}
}

// createSmall creates an image of disktest.Small and returns its path.
func createSmall(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.zvh")
	if err := Create(path, disktest.Small); err != nil {
		t.Fatal(err)
	}
	return path
}
