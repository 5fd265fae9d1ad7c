package backend

import (
	"bytes"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A power cut during a reset brings the zone back as it was or leaves it empty,
// and never a mixture, at whichever step it comes.
func TestPowerCutDuringReset(t *testing.T) {
	for steps := range 3 { // of: table, hole
		path := imagetest.New(t, disktest.Small)
		d, fs := openFaulty(t, path)
		c := disktest.NewClient(t, d)
		old := disktest.Pattern('o', 96*512)
		c.WantError(c.Write(256, old), nil)
		c.WantError(c.Flush(), nil)
		n := 0
		fs.refuse(func(storeCall) error {
			if n++; n > steps {
				return errDead
			}
			return nil
		})
		c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
		err := c.Write(256, disktest.Pattern('n', 4096))
		if (err == nil) != (steps == 2) {
			t.Errorf("with %d steps of the reset done, a write: %v", steps, err)
		}
		kill(t, d, fs)
		imagetest.CutPower(t, path)
		d = openDisk(t, path).(*zoned)
		c = disktest.NewClient(t, d)
		got := c.Read(256, len(old))
		if steps == 0 {
			c.WantZone(2, zone.Full, 96)
			if !bytes.Equal(got, old) {
				t.Error("the old zone came back with other data")
			}
		} else {
			c.WantZone(2, zone.Empty, 0)
			if !bytes.Equal(got, make([]byte, len(old))) || !bytes.Equal(imagetest.RawZone(t, path, 2), make([]byte, 128*512)) {
				t.Error("the zone is empty, but its old data is there")
			}
			c.WantError(c.Write(256, old[:512]), nil)
		}
		imagetest.CloseDisk(t, d, path)
	}
}

// Killed during a reset the zone is empty, as the guest was told, and the old
// data does not show behind new writes.
func TestKillDuringReset(t *testing.T) {
	for steps := range 3 {
		path := imagetest.New(t, disktest.Small)
		d, fs := openFaulty(t, path)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, disktest.Pattern('o', 96*512)), nil)
		c.WantError(c.Flush(), nil)
		n := 0
		fs.refuse(func(storeCall) error {
			if n++; n > steps {
				return errDead
			}
			return nil
		})
		c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
		kill(t, d, fs)
		d = openDisk(t, path).(*zoned)
		c, e := disktest.HeldClient(t, d, disktest.IsWritev)
		c.WantZone(2, zone.Empty, 0)
		rs := c.AppendEach(e, 256, 2)
		e.Release(1, disktest.OpFault{})
		c.WantDone(rs[1])
		if got := c.Read(256, 96*512); !bytes.Equal(got, slices.Concat(make([]byte, 4096), disktest.Pattern('b', 4096), make([]byte, 80*512))) {
			t.Error("old data shows in a zone that was reset")
		}
		c.ReleaseAll(e)
		c.WantDone(rs[0])
		e.Hold = nil
		imagetest.CloseDisk(t, d, path)
	}
}

// Of each pair of blocks the one that was being written may be torn.
func TestTornBlocks(t *testing.T) {
	data := disktest.Pattern('a', 4096)
	for _, keep := range []int{0, 1, 100, 2048, 4095} {
		path := imagetest.New(t, disktest.Small)
		d, fs := openFaulty(t, path)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, data), nil)
		c.WantError(c.Flush(), nil)
		c.WantError(c.Write(264, data), nil)
		fs.refuse(tearing(d.img.File, keep))
		c.WantError(c.Flush(), disk.ErrIO)
		kill(t, d, fs)
		imagetest.CutPower(t, path)
		imagetest.WantClean(t, path)
		d = openDisk(t, path).(*zoned)
		c = disktest.NewClient(t, d)
		c.WantZone(2, zone.Closed, 8)
		if !bytes.Equal(c.Read(256, 8192), append(slices.Clone(data), make([]byte, 4096)...)) {
			t.Error("other data than was flushed")
		}
		// And the state blocks: while it is marked as in use, and as clean.
		imagetest.CloseDisk(t, d, path)
		for first := range 2 {
			fs := new(faultStore)
			n := 0
			d, err := openZonedOver(path, disk.Options{}, func(s image.Store) image.Store {
				fs.under = s
				fs.before = func(call storeCall) error {
					if n++; n <= first {
						return nil
					}
					return tearing(fs.under.(image.FileStore), keep)(call)
				}
				return fs
			})
			if err == nil {
				t.Errorf("opened without a mark, at step %d: %v", first, d.Close())
			}
			imagetest.WantClean(t, path)
		}
		d, fs = openFaulty(t, path)
		c = disktest.NewClient(t, d)
		c.WantError(c.Write(264, data), nil)
		n := 0
		fs.refuse(func(call storeCall) error {
			if call.op == "stable" && call.off < format.SuperCopyOff {
				n++
				return tearing(fs.under.(image.FileStore), keep)(call)
			}
			return nil
		})
		if err := d.Close(); err == nil || n == 0 {
			t.Errorf("closed without a mark: %v", err)
		}
		d = openDisk(t, path).(*zoned)
		c = disktest.NewClient(t, d)
		c.WantZone(2, zone.ImpOpen, 16)
		imagetest.CloseDisk(t, d, path)
	}
}

// tearing writes the first keep bytes of a block of rubbish in the place of each
// block that is written, and fails.
func tearing(f any, keep int) func(storeCall) error {
	fd := -1
	switch f := f.(type) {
	case *os.File:
		fd = int(f.Fd())
	case image.FileStore:
		fd = f.FD
	}
	return func(call storeCall) error {
		if call.op != "stable" {
			return nil
		}
		if _, err := unix.Pwrite(fd, bytes.Repeat([]byte{0xbd}, keep), call.off); err != nil {
			return err
		}
		return unix.EIO
	}
}

// A zone is reset while a flush commits it, and the power is cut at each step:
// the zone is as it was flushed, or empty, and the new data never stands among
// the old.
func TestResetDuringCommit(t *testing.T) {
	old, data := disktest.Pattern('o', 96*512), disktest.Pattern('n', 4096)
	for steps := 0; ; steps++ {
		path := imagetest.New(t, disktest.Small)
		d, fs := openFaulty(t, path)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, old), nil)
		busy, hold := make(chan struct{}, 10), make(chan struct{})
		n := 0
		fs.refuse(func(storeCall) error {
			if n++; n == 1 {
				busy <- struct{}{}
				<-hold
			}
			if n > steps {
				return errDead
			}
			return nil
		})
		flush, reset, write := disktest.NewRequest(disk.OpFlush, 0, nil), disktest.NewRequest(disk.OpReset, 256, nil), disktest.NewRequest(disk.OpWrite, 256, data)
		c.Submit(flush)
		<-busy // in the middle of its sync
		c.Submit(reset, write)
		c.WantDone(reset)
		c.WantZone(2, zone.Empty, 0)
		close(hold)
		c.WantDone(flush, write)
		kill(t, d, fs)
		imagetest.CutPower(t, path)
		d2 := openDisk(t, path)
		c = disktest.NewClient(t, d2)
		switch z := d2.ReportZone(2); {
		case z.State == zone.Full && z.WP == 384:
			if !bytes.Equal(c.Read(256, len(old)), old) {
				t.Errorf("after %d steps: full, with other data", steps)
			}
		case z.State == zone.Empty:
			if flush.Err == nil && steps == 2 {
				t.Errorf("after %d steps: flushed and gone", steps)
			}
			if !bytes.Equal(c.Read(256, len(old)), make([]byte, len(old))) {
				t.Errorf("after %d steps: empty, with data", steps)
			}
		default:
			t.Errorf("after %d steps: %+v", steps, z)
		}
		imagetest.CloseDisk(t, d2, path)
		if write.Err == nil {
			if steps < 3 {
				t.Errorf("a write went in after %d steps", steps)
			}
			return
		}
	}
}

// A copy of a block that a power cut tore is whole again once the image has been
// open, also when nothing has to be committed: an image that was closed cleanly
// has no damage.
func TestTornCopyIsMended(t *testing.T) {
	for _, g := range []zone.Geometry{disktest.Small, {CapacitySectors: 1100 * 8, ZoneSectors: 8}} {
		path := imagetest.New(t, g)
		d, fs := openFaulty(t, path)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(2*g.ZoneSectors, disktest.Pattern('a', 4096)), nil)
		fs.refuse(tearing(d.img.File, 100))
		c.WantError(c.Flush(), disk.ErrIO)
		kill(t, d, fs)
		imagetest.CutPower(t, path)
		imagetest.CloseDisk(t, openDisk(t, path), path)
	}
}

// A state block that could not be written may be torn. Who tries again goes there
// again, for the other one is all that is left.
func TestStateBlockIsTriedAgain(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	c.WantError(c.Flush(), nil)
	fs.refuse(tearing(d.img.File, 512))
	for range 2 { // a session begins, and the front-end tries again
		if _, err := disk.Renew(d); err == nil {
			t.Error("renewed")
		}
	}
	kill(t, d, fs)
	d = openDisk(t, path).(*zoned)
	c = disktest.NewClient(t, d)
	c.WantZone(2, zone.ImpOpen, 8)
	imagetest.CloseDisk(t, d, path)
}
