package backend

import (
	"testing"
)

// fakeRig makes drives over devices in memory.
var fakeRig = zonedRig{
	open: func(t testing.TB, g Geometry) Disk { return newFakeDrive(t, g, nil, nil) },
	openWith: func(t testing.TB, g Geometry, zones map[int]ZoneState) Disk {
		return newFakeDrive(t, g, zones, nil)
	},
	openReadOnly: func(t testing.TB, g Geometry, fill func(Disk)) Disk {
		d := newFakeDrive(t, g, nil, nil)
		fill(d)
		return openFakeDrive(t, g, d.dev, nil, true)
	},
}

func TestZonedSuiteOnDrive(t *testing.T) { runZonedSuite(t, fakeRig) }
