package backend

import (
	"bytes"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

func TestZonedBasics(t *testing.T) {
	path := newImage(t, small)
	d := openDisk(t, path)
	c := newClient(t, d)
	a, b := pattern('a', 4096), pattern('b', 8192)

	c.want(c.write(256, a), nil)
	c.wantZone(2, zone.ImpOpen, 8)
	at, err := c.append(256, b)
	c.want(err, nil)
	if at != 264 {
		t.Errorf("append landed at %d, want 264", at)
	}
	c.wantZone(2, zone.ImpOpen, 24)
	got := c.read(256, 16384)
	if want := append(append(append([]byte{}, a...), b...), make([]byte, 4096)...); !bytes.Equal(got, want) {
		t.Error("the data read is not what was written, with zeroes behind")
	}
	c.want(c.write(256, a), zone.ErrUnaligned)
	c.want(c.write(256+96, a), zone.ErrUnaligned)
	c.want(c.zoneOp(disk.OpFinish, 256), nil)
	c.wantZone(2, zone.Full, 96)
	c.want(c.write(256+24, a), zone.ErrInvalid)
	if !bytes.Equal(c.read(256, 16384)[12288:], make([]byte, 4096)) {
		t.Error("a finished zone has something behind what was written")
	}
	c.want(c.zoneOp(disk.OpReset, 256), nil)
	c.wantZone(2, zone.Empty, 0)
	if !bytes.Equal(c.read(256, 16384), make([]byte, 16384)) {
		t.Error("a reset zone does not read as zeroes")
	}
	c.want(c.write(256, b), nil)
	c.want(c.flush(), nil)
	c.want(c.zoneOp(disk.OpResetAll, 0), nil)
	c.wantZone(2, zone.Empty, 0)
	c.want(c.write(256, a), nil)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	wantClean(t, path)

	d = openDisk(t, path)
	c2 := newClient(t, d)
	c2.wantZone(2, zone.ImpOpen, 8)
	if got := c2.read(256, 8192); !bytes.Equal(got, append(pattern('a', 4096), make([]byte, 4096)...)) {
		t.Error("the data is gone after a restart")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	wantClean(t, path)
}
