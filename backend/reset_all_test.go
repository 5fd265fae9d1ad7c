package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// A reset of all zones also waits for a zone's first writes, of which the zone's
// entry says nothing yet: who was refused for not writing at the write pointer
// that they have moved must not find them there after the reset.
func TestResetAllWaitsForFirstWrites(t *testing.T) {
	path := newImage(t, small)
	d, _ := openFaulty(t, path)
	c, e := heldClient(t, d, isWrite)
	first := c.appends(e, 256, 1)[0]
	c.want(c.write(256, pattern('x', 512)), zone.ErrUnaligned)
	all := request(disk.OpResetAll, 0, nil)
	c.submit(all)
	e.release(0, fault{})
	c.ended(first, all)
	c.wantZone(2, zone.Empty, 0)
	e.hold = nil
	closeDisk(t, d, path)
}
