package drive

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// What the kernel says of a failed write or zone operation is what the guest is
// told of it (blk_errors in block/blk-core.c).
func TestErrors(t *testing.T) {
	for errno, want := range map[error]error{
		unix.EOVERFLOW: zone.ErrActiveLimit, unix.ETOOMANYREFS: zone.ErrOpenLimit,
		unix.EREMOTEIO: disk.ErrIO, unix.ENODATA: disk.ErrIO, unix.EIO: disk.ErrIO, unix.ENXIO: disk.ErrIO, unix.ENODEV: disk.ErrIO,
		unix.ENOSPC: disk.ErrIO, unix.EFAULT: disk.ErrIO, io.ErrUnexpectedEOF: disk.ErrIO,
	} {
		d := newFakeDrive(t, disktest.Small, nil, nil)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
		d.dev.failing(engine.Writev, 0, errno, errno, errno)
		_, err := c.Append(256, disktest.Pattern('b', 4096))
		all := []error{err, c.Write(264, disktest.Pattern('b', 4096)), c.Write(0, disktest.Pattern('b', 4096))}
		for op, code := range zoneCodes {
			if code != 0 {
				d.dev.failing(code, 0, errno)
				all = append(all, c.ZoneOp(disk.Op(op), 256))
			}
		}
		d.dev.failing(engine.Readv, 0, errno)
		read := c.Do(disktest.NewRequest(disk.OpRead, 256, make([]byte, 4096)))
		for _, err := range all {
			var about *disk.RequestError
			if !errors.Is(err, want) || !errors.Is(err, errno) || !errors.As(err, &about) {
				t.Errorf("%v: got %v, want %v", errno, err, want)
			}
		}
		if !errors.Is(read, errno) {
			t.Errorf("%v: a read ends with %v", errno, read)
		}
		c.WantZone(2, zone.ImpOpen, 8)
		if !bytes.Equal(c.Read(256, 4096), disktest.Pattern('a', 4096)) {
			t.Error("what was there has changed")
		}
	}
}

// The last write of a zone fails, and the zone is full by the drive all the same:
// that is so, but the data may not be there.
func TestFullThoughFailed(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	d.dev.failing(engine.Writev, 96, unix.EIO)
	c.WantError(c.Write(256, disktest.Pattern('a', 96*512)), disk.ErrIO)
	c.WantZone(2, zone.Full, 96)
	d.dev.failing(engine.Writev, 95, unix.EIO)
	c.WantError(c.Write(384, disktest.Pattern('a', 96*512)), disk.ErrIO)
	c.WantZone(3, zone.ImpOpen, 95)
}

// How far a failed write has come: by the write pointer while that stands in it,
// else what moved before it failed.
func TestLandedIn(t *testing.T) {
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
func TestConventionalFails(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	d.dev.failing(engine.Writev, 8, unix.EIO, unix.EIO)
	c.WantError(c.Write(0, disktest.Pattern('a', 8*512)), disk.ErrIO)
	c.WantError(c.Write(124, disktest.Pattern('a', 8*512)), disk.ErrIO) // in both
	c.WantError(c.Write(124, disktest.Pattern('b', 8*512)), nil)
	d.dev.failing(engine.Writev, 0, unix.EIO)
	d.dev.set(0, zone.Offline)
	c.WantError(c.Write(0, disktest.Pattern('a', 512)), zone.ErrInvalid)
	c.WantError(c.Write(0, disktest.Pattern('a', 512)), zone.ErrInvalid)
	c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
	c.WantZone(0, zone.Offline, 0)
}

// staleDrive has a zone 2 whose first 8 sectors are known, and 4 more that
// nobody knows of: a write failed, and so did reading the zone again.
func staleDrive(t *testing.T) (*fakeDrive, *disktest.Client) {
	t.Helper()
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 8*512)), nil)
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
	_, err := c.Append(256, disktest.Pattern('b', 8*512))
	c.WantError(err, disk.ErrIO)
	return d, c
}

// Where the zone cannot be read again after a failure nobody knows what it is:
// requests fail until it can be.
func TestStale(t *testing.T) {
	d, c := staleDrive(t)
	line := []*disk.Request{
		disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('c', 512)), disktest.NewRequest(disk.OpWrite, 268, disktest.Pattern('c', 512)),
		disktest.NewRequest(disk.OpFinish, 256, nil), disktest.NewRequest(disk.OpReset, 256, nil),
	}
	c.Submit(line...)
	for range line {
		c.WantError(c.Wait().Err, disk.ErrIO)
	}
	c.WantError(c.ZoneOp(disk.OpReset, 384), nil) // others are known
	c.WantError(c.Write(384, disktest.Pattern('o', 512)), nil)
	c.WantError(d.refresh(), disk.ErrIO)
	if !bytes.Equal(c.Read(256, 8*512), disktest.Pattern('a', 8*512)) {
		t.Error("what was written cannot be read")
	}
	d.dev.fault = nil
	c.WantError(c.Write(264, disktest.Pattern('c', 512)), zone.ErrUnaligned)
	at, err := c.Append(256, disktest.Pattern('d', 512))
	c.WantError(err, nil)
	if at != 268 {
		t.Errorf("an append landed at %d", at-256)
	}
	c.WantZone(2, zone.ImpOpen, 13)
}

// Any request finds out again what a stale zone is.
func TestStaleEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		do    func(*fakeDrive, *disktest.Client) error
		state zone.State
		wp    uint64
	}{
		"write":  {func(_ *fakeDrive, c *disktest.Client) error { return c.Write(268, disktest.Pattern('c', 512)) }, zone.ImpOpen, 13},
		"open":   {func(_ *fakeDrive, c *disktest.Client) error { return c.ZoneOp(disk.OpOpen, 256) }, zone.ExpOpen, 12},
		"close":  {func(_ *fakeDrive, c *disktest.Client) error { return c.ZoneOp(disk.OpClose, 256) }, zone.Closed, 12},
		"finish": {func(_ *fakeDrive, c *disktest.Client) error { return c.ZoneOp(disk.OpFinish, 256) }, zone.Full, 12},
		"reset":  {func(_ *fakeDrive, c *disktest.Client) error { return c.ZoneOp(disk.OpReset, 256) }, zone.Empty, 0},
		"report": {func(d *fakeDrive, _ *disktest.Client) error { return d.refresh() }, zone.ImpOpen, 12},
		"all":    {func(_ *fakeDrive, c *disktest.Client) error { return c.ZoneOp(disk.OpResetAll, 256) }, zone.Empty, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d, c := staleDrive(t)
			d.dev.fault = nil
			c.WantError(tt.do(d, c), nil)
			if z := d.Drive.ReportZone(2); z.State != tt.state || tt.state != zone.Full && z.WP != 256+tt.wp {
				t.Errorf("zone 2 is %+v", z)
			}
			at, err := c.Append(256, disktest.Pattern('d', 512))
			switch {
			case tt.state == zone.Full:
				c.WantError(err, zone.ErrInvalid)
			case err != nil || at != 256+tt.wp:
				t.Errorf("an append landed at %d, %v", at-256, err)
			}
		})
	}
}

// A reset-all also resets a zone that was empty when it was last known.
func TestStaleEmpty(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	d.dev.fault = func(op *engine.Op) (int64, error) {
		if op.Code == engine.Writev {
			return 4 * 512, unix.EIO
		}
		return 0, unix.ENXIO
	}
	c.WantError(c.Write(256, disktest.Pattern('a', 8*512)), disk.ErrIO)
	d.dev.fault = nil
	c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
	c.WantError(c.Write(256, disktest.Pattern('b', 512)), nil)
	c.WantZone(2, zone.ImpOpen, 1)
}

// A drive that vanishes fails everything, and loses nothing that it has when it
// comes back; but that a flush failed is never forgotten.
func TestVanishes(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	c.WantError(c.ZoneOp(disk.OpOpen, 384), nil)
	c.WantError(c.Flush(), nil)
	d.dev.gone = true
	for range 2 {
		c.WantError(c.Write(264, disktest.Pattern('b', 4096)), disk.ErrIO)
		c.WantError(c.Write(0, disktest.Pattern('b', 4096)), disk.ErrIO)
		_, err := c.Append(384, disktest.Pattern('b', 4096))
		c.WantError(err, disk.ErrIO)
		c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 256, make([]byte, 4096))), disk.ErrIO)
		c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 264, make([]byte, 4096))), nil) // zeroes, as ever
		c.WantError(c.ZoneOp(disk.OpReset, 256), disk.ErrIO)
		c.WantError(c.ZoneOp(disk.OpResetAll, 0), disk.ErrIO)
		c.WantError(d.refresh(), disk.ErrIO)
		d.wantState(c.T, 2, zone.ImpOpen, 8)
	}
	d.dev.gone = false
	c.WantError(c.Write(264, disktest.Pattern('b', 4096)), nil)
	c.WantError(c.ZoneOp(disk.OpClose, 384), nil)
	c.WantError(d.refresh(), nil)
	c.WantZone(2, zone.ImpOpen, 16)
	c.WantZone(3, zone.Empty, 0)
	if got := c.Read(256, 8192); !bytes.Equal(got, append(disktest.Pattern('a', 4096), disktest.Pattern('b', 4096)...)) {
		t.Error("the data is another one")
	}
	c.WantError(c.Flush(), nil)
	d.dev.failing(engine.Fdatasync, 0, unix.ENXIO)
	c.WantError(c.Flush(), disk.ErrIO)
	c.WantError(c.Flush(), disk.ErrIO)
	r := disktest.NewRequest(disk.OpFinish, 256, nil)
	r.Stable = true
	c.WantError(c.Do(r), disk.ErrIO)
}

// wantState is wantZone without asking the drive.
func (d *fakeDrive) wantState(t disktest.TB, i int, state zone.State, written uint64) {
	t.Helper()
	if z := d.Drive.ReportZone(i); z.State != state || z.WP != z.Start+written {
		t.Errorf("zone %d is %v with its write pointer at %d, want %v at %d", i, z.State, z.WP-z.Start, state, written)
	}
}
