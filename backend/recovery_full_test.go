package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/zone"
)

// Killed when the last write of a zone had landed and one before it had not,
// the zone is full: no write can go there, so it must not stay open for ever
// and keep its place among the active zones.
func TestKillWhileZoneFillsUp(t *testing.T) {
	path := newImage(t, zone.Geometry{CapacitySectors: 4 * 16, ZoneSectors: 16, MaxActive: 1, MaxAppendSectors: 16})
	d, fs := openFaulty(t, path)
	c, e := heldClient(t, d, isWrite)
	rs := c.appends(e, 0, 2)
	e.release(1, fault{}) // the second is answered
	c.ended(rs[1])
	kill(t, d, fs)
	e.hold, e.held = nil, nil
	c.lane.Forget(1) // it died with the daemon

	d = openDisk(t, path).(*zoned)
	c = newClient(t, d)
	c.wantZone(0, zone.Full, 16)
	c.want(c.write(16, pattern('a', 512)), nil)
	closeDisk(t, d, path)
}
