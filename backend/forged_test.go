package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
)

func TestForgedMarks(t *testing.T) {
	path := newFastImage(t, disktest.Small)
	d := openDisk(t, path)
	disktest.CheckForgedNotes(t, d)
	closeDisk(t, d, path)
}

func TestManyClaimsInOneZone(t *testing.T) {
	path := newFastImage(t, disktest.ManyClaims)
	d := openDisk(t, path)
	disktest.CheckManyClaims(t, d, &d.(*zoned).claims.steps)
	closeDisk(t, d, path)
}

func TestMarksThatChange(t *testing.T) {
	path := newImage(t, disktest.Small)
	d := openDisk(t, path)
	disktest.CheckNotesThatChange(t, d, nil)
	closeDisk(t, d, path)
}

// A failed sync has cost the live table its trust: a write whose mark says done is not
// answered as done where the data is gone.
func TestDoneMarkOfALostWrite(t *testing.T) {
	path := newFastImage(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	d.(*zoned).img.Resumable = false // as open finds it
	c.WantError(c.Resume(disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('a', 4096)), disktest.NoteDone(256, 8)), nil)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 384, disktest.Pattern('a', 4096)), disktest.NoteDone(384, 8)), disk.ErrIO)
	closeDisk(t, d, path)
}
