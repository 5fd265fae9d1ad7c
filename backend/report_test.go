package backend

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// zonesOf is what an open disk says of its zones.
func zonesOf(d disk.Disk) []zone.Descriptor {
	zones := make([]zone.Descriptor, d.Info().Zoned.Zones)
	for i := range zones {
		zones[i] = d.ReportZone(i)
	}
	return zones
}

func wantReport(t disktest.TB, path string, inUse bool, zones []zone.Descriptor) {
	t.Helper()
	rep, err := ReadReport(path)
	if err != nil {
		t.Error(err)
		return
	}
	if rep.InUse != inUse {
		t.Errorf("report: in use %v, want %v", rep.InUse, inUse)
	}
	if diff := cmp.Diff(zones, rep.Zones); diff != "" {
		t.Errorf("report differs from the disk (-want +got):\n%s", diff)
	}
}

// A report beside a daemon equals what the daemon says, after every step.
func TestReportBesideOpenDisk(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	step := func(err error) {
		t.Helper()
		c.WantError(err, nil)
		wantReport(t, path, true, zonesOf(d))
	}
	data := disktest.Pattern('a', 96*512)
	step(nil)
	step(c.Write(0, data))
	step(c.Write(256, data[:512]))
	step(c.ZoneOp(disk.OpOpen, 384))
	step(c.Write(512, data))
	step(c.ZoneOp(disk.OpFinish, 640))
	step(c.ZoneOp(disk.OpClose, 256))
	step(c.ZoneOp(disk.OpReset, 512))
	last := zonesOf(d)
	imagetest.CloseDisk(t, d, path)
	wantReport(t, path, false, last)

	rep, err := ReadReport(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d.Info(), rep.Info); diff != "" {
		t.Errorf("info differs (-disk +report):\n%s", diff)
	}
	if rep.UUID == [16]byte{} {
		t.Error("no UUID")
	}

	// Readers share the image and do not use it up.
	r, err := Open(path, disk.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	wantReport(t, path, false, last)
	imagetest.CloseDisk(t, r, path)
}

// The report of an image that was left in use is what the next daemon will find.
func TestReportAfterCrash(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	data := disktest.Pattern('a', 4096)
	c.WantError(c.Write(256, data), nil)
	c.WantError(c.Flush(), nil)
	c.WantError(c.Write(264, data), nil)
	told := zonesOf(d)
	kill(t, d, fs)
	wantReport(t, path, false, told)

	imagetest.CutPower(t, path)
	told[2].State, told[2].WP = zone.Closed, 256+8
	wantReport(t, path, false, told)
	// While the next daemon recovers it holds the lock already, but the live
	// table is not right yet.
	imagetest.Edit(t, path, func(f *os.File, _ *format.Layout) {
		if err := disk.LockFile(f, false); err != nil {
			t.Fatal(err)
		}
		wantReport(t, path, true, told)
	})
	d2 := openDisk(t, path)
	wantReport(t, path, true, told)
	imagetest.CloseDisk(t, d2, path)
}

// One writer, or any number of readers; the error says who holds the image.
func TestLock(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	refused := func(_ any, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d (", os.Getpid())) {
			t.Errorf("got %v, want an error that names process %d", err, os.Getpid())
		}
	}
	refused(Open(path, disk.Options{}))
	refused(Open(path, disk.Options{ReadOnly: true}))
	refused(image.Check(path))
	imagetest.CloseDisk(t, d, path)

	a, err := Open(path, disk.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(path, disk.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	refused(Open(path, disk.Options{}))
	imagetest.CloseDisk(t, a, path)
	imagetest.CloseDisk(t, b, path)
	imagetest.CloseDisk(t, openDisk(t, path), path)
}

// Whoever looks at an image all the time must not keep a daemon from starting.
func TestReportsDoNotDisturb(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := ReadReport(path); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 50 {
		d, err := Open(path, disk.Options{})
		if err != nil {
			t.Error(err)
			break
		}
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, disktest.Pattern('a', 512)), nil)
		c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
		if err := d.Close(); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	readers.Wait()
	imagetest.WantClean(t, path)
}

func TestReportErrors(t *testing.T) {
	dir := t.TempDir()
	plain := dir + "/plain"
	if err := os.WriteFile(plain, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	short := imagetest.New(t, disktest.Small)
	if err := os.Truncate(short, 70_000); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		plain:            "ordinary disk",
		dir + "/missing": "no such file",
		dir:              "neither a file nor a block device",
		short:            "cut short",
	} {
		if _, err := ReadReport(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}
