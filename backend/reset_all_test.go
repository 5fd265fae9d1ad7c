package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A reset of all zones also waits for a zone's first writes, of which the zone's
// entry says nothing yet: who was refused for not writing at the write pointer
// that they have moved must not find them there after the reset.
func TestResetAllWaitsForFirstWrites(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, _ := openFaulty(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	first := c.AppendEach(e, 256, 1)[0]
	c.WantError(c.Write(256, disktest.Pattern('x', 512)), zone.ErrUnaligned)
	all := disktest.NewRequest(disk.OpResetAll, 0, nil)
	c.Submit(all)
	e.Release(0, disktest.OpFault{})
	c.WantDone(first, all)
	c.WantZone(2, zone.Empty, 0)
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}
