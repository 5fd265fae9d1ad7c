package backend

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// What the kernel says of a failed write or zone operation is what the guest is
// told of it (blk_errors in block/blk-core.c).
func TestDriveErrors(t *testing.T) {
	for errno, want := range map[error]error{
		unix.EOVERFLOW: zone.ErrActiveLimit, unix.ETOOMANYREFS: zone.ErrOpenLimit,
		unix.EREMOTEIO: disk.ErrIO, unix.ENODATA: disk.ErrIO, unix.EIO: disk.ErrIO, unix.ENXIO: disk.ErrIO, unix.ENODEV: disk.ErrIO,
		unix.ENOSPC: disk.ErrIO, unix.EFAULT: disk.ErrIO, io.ErrUnexpectedEOF: disk.ErrIO,
	} {
		d := newFakeDrive(t, small, nil, nil)
		c := newClient(t, d)
		c.want(c.write(256, pattern('a', 4096)), nil)
		d.dev.failing(engine.Writev, 0, errno, errno, errno)
		_, err := c.append(256, pattern('b', 4096))
		all := []error{err, c.write(264, pattern('b', 4096)), c.write(0, pattern('b', 4096))}
		for op, code := range zoneCodes {
			if code != 0 {
				d.dev.failing(code, 0, errno)
				all = append(all, c.zoneOp(disk.Op(op), 256))
			}
		}
		d.dev.failing(engine.Readv, 0, errno)
		read := c.do(request(disk.OpRead, 256, make([]byte, 4096)))
		for _, err := range all {
			var about *disk.RequestError
			if !errors.Is(err, want) || !errors.Is(err, errno) || !errors.As(err, &about) {
				t.Errorf("%v: got %v, want %v", errno, err, want)
			}
		}
		if !errors.Is(read, errno) {
			t.Errorf("%v: a read ends with %v", errno, read)
		}
		c.wantZone(2, zone.ImpOpen, 8)
		if !bytes.Equal(c.read(256, 4096), pattern('a', 4096)) {
			t.Error("what was there has changed")
		}
	}
}

// The last write of a zone fails, and the zone is full by the drive all the same:
// that is so, but the data may not be there.
func TestDriveFullThoughFailed(t *testing.T) {
	d := newFakeDrive(t, small, nil, nil)
	c := newClient(t, d)
	d.dev.failing(engine.Writev, 96, unix.EIO)
	c.want(c.write(256, pattern('a', 96*512)), disk.ErrIO)
	c.wantZone(2, zone.Full, 96)
	d.dev.failing(engine.Writev, 95, unix.EIO)
	c.want(c.write(384, pattern('a', 96*512)), disk.ErrIO)
	c.wantZone(3, zone.ImpOpen, 95)
}

// How far a failed write has come: by the write pointer while that stands in it,
// else what moved before it failed.
func TestDriveLandedIn(t *testing.T) {
	tried := [2]uint64{16, 32}
	for _, tt := range []struct {
		state    zone.State
		wp, want uint64
	}{
		{zone.ImpOpen, 8, 8}, {zone.ImpOpen, 16, 16}, {zone.ExpOpen, 24, 24}, {zone.Closed, 31, 31}, {zone.ImpOpen, 32, 16},
		{zone.ImpOpen, 40, 16}, {zone.Full, 96, 16}, {zone.Empty, 0, 0}, {zone.ReadOnly, 24, 0}, {zone.Offline, 0, 0},
	} {
		if got := landedIn(zone.Pack(2, tt.state, tt.wp), tried); got != tt.want {
			t.Errorf("%v at %d: landed up to %d, want %d", tt.state, tt.wp, got, tt.want)
		}
	}
}

// A failed write to a conventional zone has no pointer to go by: it failed.
func TestDriveConventionalFails(t *testing.T) {
	d := newFakeDrive(t, small, nil, nil)
	c := newClient(t, d)
	d.dev.failing(engine.Writev, 8, unix.EIO, unix.EIO)
	c.want(c.write(0, pattern('a', 8*512)), disk.ErrIO)
	c.want(c.write(124, pattern('a', 8*512)), disk.ErrIO) // in both
	c.want(c.write(124, pattern('b', 8*512)), nil)
	d.dev.failing(engine.Writev, 0, unix.EIO)
	d.dev.set(0, zone.Offline)
	c.want(c.write(0, pattern('a', 512)), zone.ErrInvalid)
	c.want(c.write(0, pattern('a', 512)), zone.ErrInvalid)
	c.want(c.zoneOp(disk.OpResetAll, 0), nil)
	c.wantZone(0, zone.Offline, 0)
}

// staleDrive has a zone 2 whose first 8 sectors are known, and 4 more that
// nobody knows of: a write failed, and so did reading the zone again.
func staleDrive(t *testing.T) (*fakeDrive, *client) {
	t.Helper()
	d := newFakeDrive(t, small, nil, nil)
	c := newClient(t, d)
	c.want(c.write(256, pattern('a', 8*512)), nil)
	failed := false
	d.dev.fault = func(op *engine.Op) (int64, error) {
		switch {
		case op.Code == engine.Writev && !failed:
			failed = true
			return 4 * 512, unix.EIO
		case op.Code == engine.ZoneReport && failed:
			return 0, unix.ENXIO
		}
		return 0, nil
	}
	_, err := c.append(256, pattern('b', 8*512))
	c.want(err, disk.ErrIO)
	return d, c
}

// Where the zone cannot be read again after a failure nobody knows what it is:
// requests fail until it can be.
func TestDriveStale(t *testing.T) {
	d, c := staleDrive(t)
	line := []*disk.Request{
		request(disk.OpAppend, 256, pattern('c', 512)), request(disk.OpWrite, 268, pattern('c', 512)),
		request(disk.OpFinish, 256, nil), request(disk.OpReset, 256, nil),
	}
	c.submit(line...)
	for range line {
		c.want(c.wait().Err, disk.ErrIO)
	}
	c.want(c.zoneOp(disk.OpReset, 384), nil) // others are known
	c.want(c.write(384, pattern('o', 512)), nil)
	c.want(d.refresh(), disk.ErrIO)
	if !bytes.Equal(c.read(256, 8*512), pattern('a', 8*512)) {
		t.Error("what was written cannot be read")
	}
	d.dev.fault = nil
	c.want(c.write(264, pattern('c', 512)), zone.ErrUnaligned)
	at, err := c.append(256, pattern('d', 512))
	c.want(err, nil)
	if at != 268 {
		t.Errorf("an append landed at %d", at-256)
	}
	c.wantZone(2, zone.ImpOpen, 13)
}

// Any request finds out again what a stale zone is.
func TestDriveStaleEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		do    func(*fakeDrive, *client) error
		state zone.State
		wp    uint64
	}{
		"write":  {func(_ *fakeDrive, c *client) error { return c.write(268, pattern('c', 512)) }, zone.ImpOpen, 13},
		"open":   {func(_ *fakeDrive, c *client) error { return c.zoneOp(disk.OpOpen, 256) }, zone.ExpOpen, 12},
		"close":  {func(_ *fakeDrive, c *client) error { return c.zoneOp(disk.OpClose, 256) }, zone.Closed, 12},
		"finish": {func(_ *fakeDrive, c *client) error { return c.zoneOp(disk.OpFinish, 256) }, zone.Full, 12},
		"reset":  {func(_ *fakeDrive, c *client) error { return c.zoneOp(disk.OpReset, 256) }, zone.Empty, 0},
		"report": {func(d *fakeDrive, _ *client) error { return d.refresh() }, zone.ImpOpen, 12},
		"all":    {func(_ *fakeDrive, c *client) error { return c.zoneOp(disk.OpResetAll, 256) }, zone.Empty, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d, c := staleDrive(t)
			d.dev.fault = nil
			c.want(tt.do(d, c), nil)
			if z := d.drive.ReportZone(2); z.State != tt.state || tt.state != zone.Full && z.WP != 256+tt.wp {
				t.Errorf("zone 2 is %+v", z)
			}
			at, err := c.append(256, pattern('d', 512))
			switch {
			case tt.state == zone.Full:
				c.want(err, zone.ErrInvalid)
			case err != nil || at != 256+tt.wp:
				t.Errorf("an append landed at %d, %v", at-256, err)
			}
		})
	}
}

// A reset-all also resets a zone that was empty when it was last known.
func TestDriveStaleEmpty(t *testing.T) {
	d := newFakeDrive(t, small, nil, nil)
	c := newClient(t, d)
	d.dev.fault = func(op *engine.Op) (int64, error) {
		if op.Code == engine.Writev {
			return 4 * 512, unix.EIO
		}
		return 0, unix.ENXIO
	}
	c.want(c.write(256, pattern('a', 8*512)), disk.ErrIO)
	d.dev.fault = nil
	c.want(c.zoneOp(disk.OpResetAll, 0), nil)
	c.want(c.write(256, pattern('b', 512)), nil)
	c.wantZone(2, zone.ImpOpen, 1)
}

// A drive that vanishes fails everything, and loses nothing that it has when it
// comes back; but that a flush failed is never forgotten.
func TestDriveVanishes(t *testing.T) {
	d := newFakeDrive(t, small, nil, nil)
	c := newClient(t, d)
	c.want(c.write(256, pattern('a', 4096)), nil)
	c.want(c.zoneOp(disk.OpOpen, 384), nil)
	c.want(c.flush(), nil)
	d.dev.gone = true
	for range 2 {
		c.want(c.write(264, pattern('b', 4096)), disk.ErrIO)
		c.want(c.write(0, pattern('b', 4096)), disk.ErrIO)
		_, err := c.append(384, pattern('b', 4096))
		c.want(err, disk.ErrIO)
		c.want(c.do(request(disk.OpRead, 256, make([]byte, 4096))), disk.ErrIO)
		c.want(c.do(request(disk.OpRead, 264, make([]byte, 4096))), nil) // zeroes, as ever
		c.want(c.zoneOp(disk.OpReset, 256), disk.ErrIO)
		c.want(c.zoneOp(disk.OpResetAll, 0), disk.ErrIO)
		c.want(d.refresh(), disk.ErrIO)
		c.wantState(d, 2, zone.ImpOpen, 8)
	}
	d.dev.gone = false
	c.want(c.write(264, pattern('b', 4096)), nil)
	c.want(c.zoneOp(disk.OpClose, 384), nil)
	c.want(d.refresh(), nil)
	c.wantZone(2, zone.ImpOpen, 16)
	c.wantZone(3, zone.Empty, 0)
	if got := c.read(256, 8192); !bytes.Equal(got, append(pattern('a', 4096), pattern('b', 4096)...)) {
		t.Error("the data is another one")
	}
	c.want(c.flush(), nil)
	d.dev.failing(engine.Fdatasync, 0, unix.ENXIO)
	c.want(c.flush(), disk.ErrIO)
	c.want(c.flush(), disk.ErrIO)
	r := request(disk.OpFinish, 256, nil)
	r.Stable = true
	c.want(c.do(r), disk.ErrIO)
}

// wantState is wantZone without asking the drive.
func (c *client) wantState(d *fakeDrive, i int, state zone.State, written uint64) {
	c.t.Helper()
	if z := d.drive.ReportZone(i); z.State != state || z.WP != z.Start+written {
		c.t.Errorf("zone %d is %v with its write pointer at %d, want %v at %d", i, z.State, z.WP-z.Start, state, written)
	}
}
