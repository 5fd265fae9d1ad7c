package backend

import (
	"bytes"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

func TestZonedBasics(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	a, b := disktest.Pattern('a', 4096), disktest.Pattern('b', 8192)

	c.WantError(c.Write(256, a), nil)
	c.WantZone(2, zone.ImpOpen, 8)
	at, err := c.Append(256, b)
	c.WantError(err, nil)
	if at != 264 {
		t.Errorf("append landed at %d, want 264", at)
	}
	c.WantZone(2, zone.ImpOpen, 24)
	got := c.Read(256, 16384)
	if want := append(append(append([]byte{}, a...), b...), make([]byte, 4096)...); !bytes.Equal(got, want) {
		t.Error("the data read is not what was written, with zeroes behind")
	}
	c.WantError(c.Write(256, a), zone.ErrUnaligned)
	c.WantError(c.Write(256+96, a), zone.ErrUnaligned)
	c.WantError(c.ZoneOp(disk.OpFinish, 256), nil)
	c.WantZone(2, zone.Full, 96)
	c.WantError(c.Write(256+24, a), zone.ErrInvalid)
	if !bytes.Equal(c.Read(256, 16384)[12288:], make([]byte, 4096)) {
		t.Error("a finished zone has something behind what was written")
	}
	c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
	c.WantZone(2, zone.Empty, 0)
	if !bytes.Equal(c.Read(256, 16384), make([]byte, 16384)) {
		t.Error("a reset zone does not read as zeroes")
	}
	c.WantError(c.Write(256, b), nil)
	c.WantError(c.Flush(), nil)
	c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
	c.WantZone(2, zone.Empty, 0)
	c.WantError(c.Write(256, a), nil)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	imagetest.WantClean(t, path)

	d = openDisk(t, path)
	c2 := disktest.NewClient(t, d)
	c2.WantZone(2, zone.ImpOpen, 8)
	if got := c2.Read(256, 8192); !bytes.Equal(got, append(disktest.Pattern('a', 4096), make([]byte, 4096)...)) {
		t.Error("the data is gone after a restart")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	imagetest.WantClean(t, path)
}
