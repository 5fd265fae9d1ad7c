package drive_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/drive"
)

// A drive of which a sync has failed is not let go of: who opened it next would be told by
// its first sync that all is well.
func TestLetGoOfALostDrive(t *testing.T) {
	d := drive.NewFake(t, disktest.Small, nil, nil).Drive
	d.Lose(unix.EIO)
	if left, err := backend.LetGo(d); err == nil || left != disk.Disk(d) {
		t.Errorf("let go of: %v", err)
	}
}

// Zone states are set in images only.
func TestZoneStatesAreTheDrives(t *testing.T) {
	d := drive.NewFake(t, disktest.Small, nil, nil)
	if err := backend.SetZoneStates(d, []int{2}, backend.ToOffline); err == nil || err.Error() != "a real drive sets its zones itself: this can be done to images only" {
		t.Error(err)
	}
}
