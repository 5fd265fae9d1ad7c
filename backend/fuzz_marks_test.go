package backend

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
)

// FuzzForgedMarks is disktest.FuzzNotes on images, each of which is whole afterwards.
func FuzzForgedMarks(f *testing.F) {
	path, image := markImage(f)
	disktest.FuzzNotes(f, func(t *testing.T) (disk.Disk, func()) {
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		d := openDisk(t, path)
		return d, func() { imagetest.CloseDisk(t, d, path) }
	}, true, true)
}

// markImage is an image in memory, where syncs cost nothing, and what it is to hold: its
// zones were written, but for the last two.
func markImage(f *testing.F) (path string, image []byte) {
	fresh := imagetest.New(f, disktest.NotesGeometry)
	d := openDisk(f, fresh)
	disktest.FillForNotes(f, d)
	imagetest.CloseDisk(f, d, fresh)
	image, err := os.ReadFile(fresh)
	if err != nil {
		f.Fatal(err)
	}
	memfd, err := unix.MemfdCreate("disk.zvh", unix.MFD_CLOEXEC)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = unix.Close(memfd) })
	return fmt.Sprintf("/proc/self/fd/%d", memfd), image
}
