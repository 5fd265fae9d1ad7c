package drive

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
)

// FuzzForgedMarks is disktest.FuzzNotes on drives.
func FuzzForgedMarks(f *testing.F) {
	disktest.FuzzNotes(f, func(t *testing.T) (disk.Disk, func()) {
		return newFakeDrive(t, disktest.NotesGeometry, nil, nil), func() {}
	}, false, false)
}
