package backend

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// A write that is too long for the device at once is refused for the reason that
// its first part is refused for, and lands whole otherwise. Found with null_blk:
// the kernel splits such a write, and then says EIO for one part or the other
// where it is the limit of open zones.
func TestDriveLongWrite(t *testing.T) {
	const longest = 8 << SectorShift
	d := newFakeDrive(t, Geometry{CapacitySectors: 4 * 128, ZoneSectors: 128, MaxOpen: 1, BlockSize: 512}, nil, nil)
	d.partBytes = longest
	d.dev.fault = func(op *engine.Op) (int64, error) {
		if op.Code == engine.Writev && op.Len > longest {
			return 0, unix.EIO // that of another part
		}
		return 0, nil
	}
	c := newClient(t, d)
	data := pattern(7, 60<<SectorShift)
	c.want(c.zoneOp(OpOpen, 0), nil)
	c.want(c.write(128, data), ErrOpenResource)
	c.want(c.write(0, data), nil)
	c.wantZone(0, ExpOpen, 60)
	if !bytes.Equal(c.read(0, len(data)), data) {
		t.Error("it reads otherwise")
	}
}
