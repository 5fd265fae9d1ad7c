package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
)

func TestForgedMarks(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	disktest.CheckForgedNotes(t, d)
	imagetest.CloseDisk(t, d, path)
}

func TestManyClaimsInOneZone(t *testing.T) {
	path := imagetest.NewFast(t, disktest.ManyClaims)
	d := openDisk(t, path)
	disktest.CheckManyClaims(t, d, &d.(*zoned).claims.steps)
	imagetest.CloseDisk(t, d, path)
}

func TestMarksThatChange(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	disktest.CheckNotesThatChange(t, d, nil)
	imagetest.CloseDisk(t, d, path)
}

// A failed sync has cost the live table its trust: a write whose mark says done is not
// answered as done where the data is gone.
func TestDoneMarkOfALostWrite(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	d.(*zoned).img.Resumable = false // as open finds it
	c.WantError(c.Resume(disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('a', 4096)), disktest.NoteDone(256, 8)), nil)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 384, disktest.Pattern('a', 4096)), disktest.NoteDone(384, 8)), disk.ErrIO)
	imagetest.CloseDisk(t, d, path)
}
