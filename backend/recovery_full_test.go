package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// Killed when the last write of a zone had landed and one before it had not,
// the zone is full: no write can go there, so it must not stay open for ever
// and keep its place among the active zones.
func TestKillWhileZoneFillsUp(t *testing.T) {
	path := imagetest.New(t, zone.Geometry{CapacitySectors: 4 * 16, ZoneSectors: 16, MaxActive: 1, MaxAppendSectors: 16})
	d, fs := openFaulty(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	rs := c.AppendEach(e, 0, 2)
	e.Release(1, disktest.OpFault{}) // the second is answered
	c.WantDone(rs[1])
	kill(t, d, fs)
	e.Hold, e.Held = nil, nil
	c.Lane.Forget(1) // it died with the daemon

	d = openDisk(t, path).(*zoned)
	c = disktest.NewClient(t, d)
	c.WantZone(0, zone.Full, 16)
	c.WantError(c.Write(16, disktest.Pattern('a', 512)), nil)
	imagetest.CloseDisk(t, d, path)
}
