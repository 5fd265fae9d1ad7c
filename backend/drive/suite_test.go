package drive

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/zone"
)

// fakeRig makes drives over devices in memory.
var fakeRig = disktest.SuiteRig{
	Open: func(t testing.TB, g zone.Geometry) disk.Disk { return newFakeDrive(t, g, nil, nil) },
	OpenWith: func(t testing.TB, g zone.Geometry, zones map[int]zone.State) disk.Disk {
		return newFakeDrive(t, g, zones, nil)
	},
	OpenReadOnly: func(t testing.TB, g zone.Geometry, fill func(disk.Disk)) disk.Disk {
		d := newFakeDrive(t, g, nil, nil)
		fill(d)
		return openFakeDrive(t, g, d.dev, nil, true)
	},
}

func TestZonedSuite(t *testing.T) { disktest.RunSuite(t, fakeRig) }
