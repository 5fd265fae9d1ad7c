package backend

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// unclearable is a zoned disk on which nothing can be cleared until heal is called, and
// a client whose writes are held.
func unclearable(t *testing.T, path string) (d *zoned, c *disktest.Client, e *disktest.HeldEngine, heal func()) {
	t.Helper()
	d, fs := openFaulty(t, path)
	c, e = disktest.HeldClient(t, d, disktest.IsWritev)
	e.Fault = func(op *engine.Op) disktest.OpFault {
		if op.Code == engine.PunchHole || op.Code == engine.ZeroRange {
			return disktest.OpFault{Err: unix.ENOSPC}
		}
		return disktest.OpFault{}
	}
	fs.refuse(failing("wipe", unix.ENOSPC))
	return d, c, e, func() { e.Fault = nil; fs.refuse(nil) }
}

// failNow is an append to the zone at sector that fails when n bytes of it have landed.
func failNow(c *disktest.Client, e *disktest.HeldEngine, sector uint64, n int64) {
	c.T.Helper()
	r := c.AppendEach(e, sector, 1)[0]
	e.Release(0, disktest.OpFault{N: n, Err: unix.EIO})
	c.WantDone(r)
	c.WantError(r.Err, disk.ErrIO)
}

// What a failed write leaves, where it cannot be cleared, is under no other write: none
// that fails in its turn, without a byte, lets it show below the write pointer.
func TestResidueIsUnderNobody(t *testing.T) {
	for _, first := range []uint64{0, 8} {
		path := imagetest.NewFast(t, disktest.Small)
		_, c, e, heal := unclearable(t, path)
		if first > 0 {
			c.WantError(c.WriteUnheld(e, 256, disktest.Pattern('z', int(first)*disk.SectorSize)), nil)
		}
		failNow(c, e, 256, 2048)
		e.Hold = nil
		for range 2 {
			c.WantError(c.Write(256+first, disktest.Pattern('x', 512)), unix.ENOSPC)
			_, err := c.Append(256, disktest.Pattern('x', 512))
			c.WantError(err, disk.ErrIO)
		}
		c.WantError(c.Write(384, disktest.Pattern('o', 512)), nil) // another zone is not held up
		e.Hold = disktest.IsWritev
		c.WantError(c.ZoneOp(disk.OpOpen, 256), nil)
		heal()
		// One by one: the gate opens meanwhile, and who came first is not who goes first.
		rs := append(c.AppendEach(e, 256, 1), c.AppendEach(e, 256, 1)...)
		e.Release(0, disktest.OpFault{Err: unix.EIO})
		e.Release(0, disktest.OpFault{})
		c.WantDone(rs[1], rs[0])
		c.WantZone(2, zone.ExpOpen, first+16)
		want := append(append(disktest.Pattern('z', int(first)*disk.SectorSize), make([]byte, 4096)...), disktest.Pattern('a', 4096)...)
		if got := c.Read(256, len(want)); !bytes.Equal(got, want) {
			t.Error("what a write had left that failed before shows")
		}
		e.Hold = nil
		imagetest.CloseDisk(t, c.Disk, path)
	}
}

// Residue that others are written behind holds nobody up: nobody is given that address
// again. Nor does any in a zone that was reset, once its old data is gone.
func TestResidueBelowThePointer(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, c, e, heal := unclearable(t, path)
	rs := c.AppendEach(e, 256, 3)
	e.Release(0, disktest.OpFault{N: 1024, Err: unix.EIO})
	c.WantDone(rs[0])
	e.Release(0, disktest.OpFault{})
	c.WantDone(rs[1])
	c.WantError(c.WriteUnheld(e, 256+24, disktest.Pattern('w', 512)), nil) // one is in flight still
	e.Release(0, disktest.OpFault{N: 512, Err: unix.EIO})
	c.WantDone(rs[2])
	c.WantZone(2, zone.ImpOpen, 25)
	c.WantError(c.WriteUnheld(e, 256+25, disktest.Pattern('w', 512)), nil)

	failNow(c, e, 256, 512)
	c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
	c.WantError(c.WriteUnheld(e, 256, disktest.Pattern('x', 512)), disk.ErrIO) // its old data
	failNow(c, e, 384, 512)
	c.WantError(c.ZoneOp(disk.OpReset, 384), nil) // it had none
	c.WantError(c.WriteUnheld(e, 384, disktest.Pattern('x', 512)), disk.ErrIO)
	c.WantError(c.ZoneOp(disk.OpFinish, 384), nil)
	c.WantError(c.ZoneOp(disk.OpReset, 384), nil)
	erase := disktest.NewRequest(disk.OpSecureErase, 384, nil)
	erase.Ranges = []disk.Range{{Sector: 384, Sectors: 128}}
	c.WantError(c.Do(erase), disk.ErrIO)
	heal()
	c.WantError(c.Do(erase), nil)
	if data := imagetest.RawZone(t, path, 3); !bytes.Equal(data, make([]byte, len(data))) {
		t.Error("an erased zone has something in the file")
	}
	for _, sector := range []uint64{256, 384} {
		c.WantError(c.WriteUnheld(e, sector, disktest.Pattern('y', 512)), nil)
		c.WantZone(int(sector>>d.shift), zone.ImpOpen, 1)
	}
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}

// A disk with residue is not closed cleanly, for recovery clears it; so does a close, if
// it can.
func TestResidueAtTheEnd(t *testing.T) {
	for _, well := range []bool{false, true} {
		path := imagetest.NewFast(t, disktest.Small)
		d, c, e, heal := unclearable(t, path)
		failNow(c, e, 256, 2048)
		if well {
			heal()
		}
		if err := d.Close(); (err == nil) != well {
			t.Errorf("closed: %v", err)
		}
		next := openDisk(t, path)
		if data := imagetest.RawZone(t, path, 2); !bytes.Equal(data, make([]byte, len(data))) {
			t.Error("the next daemon has it in its file")
		}
		c = disktest.NewClient(t, next)
		c.WantError(c.Write(256, disktest.Pattern('a', 512)), nil)
		imagetest.CloseDisk(t, next, path)
	}
}

// What a claim that is given up had left is residue as well.
func TestResidueOfAClaim(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, c, e, heal := unclearable(t, path)
	m := disktest.NoteInFlight(256, 8)
	disk.Claim(d, disk.Run(d), []*disk.Note{m})
	disk.Release(d, m)
	c.WantError(c.WriteUnheld(e, 256, disktest.Pattern('x', 512)), disk.ErrIO)
	heal()
	c.WantError(c.WriteUnheld(e, 256, disktest.Pattern('x', 512)), nil)
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}
