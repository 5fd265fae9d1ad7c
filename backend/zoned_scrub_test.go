package backend

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// unclearable is a zoned disk on which nothing can be cleared until heal is called, and
// a client whose writes are held.
func unclearable(t *testing.T, path string) (d *zoned, c *client, e *heldEngine, heal func()) {
	t.Helper()
	d, fs := openFaulty(t, path)
	c, e = heldClient(t, d, isWrite)
	e.fault = func(op *engine.Op) fault {
		if op.Code == engine.PunchHole || op.Code == engine.ZeroRange {
			return fault{err: unix.ENOSPC}
		}
		return fault{}
	}
	fs.refuse(failing("wipe", unix.ENOSPC))
	return d, c, e, func() { e.fault = nil; fs.refuse(nil) }
}

// failNow is an append to the zone at sector that fails when n bytes of it have landed.
func (c *client) failNow(e *heldEngine, sector uint64, n int64) {
	c.t.Helper()
	r := c.appends(e, sector, 1)[0]
	e.release(0, fault{n: n, err: unix.EIO})
	c.ended(r)
	c.want(r.Err, disk.ErrIO)
}

// What a failed write leaves, where it cannot be cleared, is under no other write: none
// that fails in its turn, without a byte, lets it show below the write pointer.
func TestDebrisIsUnderNobody(t *testing.T) {
	for _, first := range []uint64{0, 8} {
		path := newFastImage(t, small)
		_, c, e, heal := unclearable(t, path)
		if first > 0 {
			c.want(c.writeNow(e, 256, pattern('z', int(first)*disk.SectorSize)), nil)
		}
		c.failNow(e, 256, 2048)
		e.hold = nil
		for range 2 {
			c.want(c.write(256+first, pattern('x', 512)), unix.ENOSPC)
			_, err := c.append(256, pattern('x', 512))
			c.want(err, disk.ErrIO)
		}
		c.want(c.write(384, pattern('o', 512)), nil) // another zone is not held up
		e.hold = isWrite
		c.want(c.zoneOp(disk.OpOpen, 256), nil)
		heal()
		// One by one: the gate opens meanwhile, and who came first is not who goes first.
		rs := append(c.appends(e, 256, 1), c.appends(e, 256, 1)...)
		e.release(0, fault{err: unix.EIO})
		e.release(0, fault{})
		c.ended(rs[1], rs[0])
		c.wantZone(2, zone.ExpOpen, first+16)
		want := append(append(pattern('z', int(first)*disk.SectorSize), make([]byte, 4096)...), pattern('a', 4096)...)
		if got := c.read(256, len(want)); !bytes.Equal(got, want) {
			t.Error("what a write had left that failed before shows")
		}
		e.hold = nil
		closeDisk(t, c.disk, path)
	}
}

// Debris that others are written behind holds nobody up: nobody is given that address
// again. Nor does any in a zone that was reset, once its old data is gone.
func TestDebrisBelowThePointer(t *testing.T) {
	path := newFastImage(t, small)
	d, c, e, heal := unclearable(t, path)
	rs := c.appends(e, 256, 3)
	e.release(0, fault{n: 1024, err: unix.EIO})
	c.ended(rs[0])
	e.release(0, fault{})
	c.ended(rs[1])
	c.want(c.writeNow(e, 256+24, pattern('w', 512)), nil) // one is in flight still
	e.release(0, fault{n: 512, err: unix.EIO})
	c.ended(rs[2])
	c.wantZone(2, zone.ImpOpen, 25)
	c.want(c.writeNow(e, 256+25, pattern('w', 512)), nil)

	c.failNow(e, 256, 512)
	c.want(c.zoneOp(disk.OpReset, 256), nil)
	c.want(c.writeNow(e, 256, pattern('x', 512)), disk.ErrIO) // its old data
	c.failNow(e, 384, 512)
	c.want(c.zoneOp(disk.OpReset, 384), nil) // it had none
	c.want(c.writeNow(e, 384, pattern('x', 512)), disk.ErrIO)
	c.want(c.zoneOp(disk.OpFinish, 384), nil)
	c.want(c.zoneOp(disk.OpReset, 384), nil)
	erase := request(disk.OpSecureErase, 384, nil)
	erase.Ranges = []disk.Range{{Sector: 384, Sectors: 128}}
	c.want(c.do(erase), disk.ErrIO)
	heal()
	c.want(c.do(erase), nil)
	if data := rawZone(t, path, 3); !bytes.Equal(data, make([]byte, len(data))) {
		t.Error("an erased zone has something in the file")
	}
	for _, sector := range []uint64{256, 384} {
		c.want(c.writeNow(e, sector, pattern('y', 512)), nil)
		c.wantZone(int(sector>>d.shift), zone.ImpOpen, 1)
	}
	e.hold = nil
	closeDisk(t, d, path)
}

// A disk with debris is not closed cleanly, for recovery clears it; so does a close, if
// it can.
func TestDebrisAtTheEnd(t *testing.T) {
	for _, well := range []bool{false, true} {
		path := newFastImage(t, small)
		d, c, e, heal := unclearable(t, path)
		c.failNow(e, 256, 2048)
		if well {
			heal()
		}
		if err := d.Close(); (err == nil) != well {
			t.Errorf("closed: %v", err)
		}
		next := openDisk(t, path)
		if data := rawZone(t, path, 2); !bytes.Equal(data, make([]byte, len(data))) {
			t.Error("the next daemon has it in its file")
		}
		c = newClient(t, next)
		c.want(c.write(256, pattern('a', 512)), nil)
		closeDisk(t, next, path)
	}
}

// What a claim that is given up had left is debris as well.
func TestDebrisOfAClaim(t *testing.T) {
	path := newFastImage(t, small)
	d, c, e, heal := unclearable(t, path)
	m := inFlightAt(256, 8)
	disk.Claim(d, disk.Run(d), []*disk.Note{m})
	disk.Release(d, m)
	c.want(c.writeNow(e, 256, pattern('x', 512)), disk.ErrIO)
	heal()
	c.want(c.writeNow(e, 256, pattern('x', 512)), nil)
	e.hold = nil
	closeDisk(t, d, path)
}

// A gate that was shut for debris is open, and not one of a reset, once a write that was
// in flight before has landed over it.
func TestDebrisThatIsWrittenOver(t *testing.T) {
	z := &seqZone{debris: 8, done: 16, gated: true, stuck: true, owed: true}
	if z.shutLocked(); z.gated || z.stuck || z.owed || z.debris != 0 {
		t.Errorf("%t, %t, %t, debris up to %d", z.gated, z.stuck, z.owed, z.debris)
	}
	z = &seqZone{done: 16, gated: true, stuck: true, owed: true} // a reset's
	if z.shutLocked(); !z.gated || !z.stuck || !z.owed {
		t.Error("the gate of a reset was opened")
	}
}
