package backend

import (
	"os"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/plain"
)

// An ordinary disk is as large as its file once it has been told to look; it never
// becomes smaller.
func TestGrow(t *testing.T) {
	path := newPlain(t, 1<<20)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	everywhere, place := mustFault(t, "latency=1ms,op=read"), mustFault(t, "read,sectors=3000")
	if _, err := d.Faults().Add(everywhere); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Faults().Add(place); err == nil {
		t.Fatal("a fault behind the end of the disk")
	}
	for _, step := range []struct {
		bytes   int64
		sectors uint64
		err     string
	}{
		{1 << 20, 2048, ""},
		{2<<20 + 100, 4096, ""}, // what is no whole block is not the disk's
		{4 << 20, 8192, ""},
		{1 << 20, 0, "it has shrunk from 8192 sectors to 2048"},
		{8 << 20, 0, "cut it short"}, // what it had is lost
	} {
		if err := os.Truncate(path, step.bytes); err != nil {
			t.Fatal(err)
		}
		was := d.Info().CapacitySectors
		if step.err == "" {
			c.WantError(c.Write(was, disktest.Pattern('x', 512)), disk.ErrRange) // nobody has looked yet
		}
		n, err := Grow(d)
		if step.err != "" {
			if err == nil || !strings.Contains(err.Error(), step.err) || d.Info().CapacitySectors != was {
				t.Fatalf("%d sectors, %v does not say %q", n, err, step.err)
			}
			continue
		}
		if err != nil || n != step.sectors || d.Info().CapacitySectors != n {
			t.Fatalf("%d sectors, info says %d: %v", n, d.Info().CapacitySectors, err)
		}
		c.WantError(c.Write(n-1, disktest.Pattern('y', 512)), nil)
		c.WantError(c.Write(n, disktest.Pattern('y', 512)), disk.ErrRange)
		c.Read(n-1, 512)
	}
	if _, err := d.Faults().Add(place); err != nil {
		t.Errorf("a fault where the disk has grown to: %v", err)
	}
	if l := d.Faults().List(); l[0].Struck != 3 {
		t.Errorf("a fault for the whole disk struck %d reads of 3", l[0].Struck)
	}
}

func mustFault(t *testing.T, text string) disk.Fault {
	t.Helper()
	f, err := disk.ParseFault(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Other disks say why they do not.
func TestGrowRefused(t *testing.T) {
	null, err := plain.NewNull(100)
	if err != nil {
		t.Fatal(err)
	}
	for want, d := range map[string]disk.Disk{
		"the disk is zoned: its size is fixed": openDisk(t, imagetest.New(t, disktest.Small)),
		"a disk without storage":               null,
	} {
		if _, err := Grow(d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
