package backend

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// manyStates brings the zones of a disk of geometry small into all states that
// requests lead to, within its limits, with unflushed writes among them.
func manyStates(w *disktest.Twin) {
	for _, r := range []*disk.Request{
		w.NewRequest(disk.OpWrite, 13, 1024),     // conventional
		w.NewRequest(disk.OpWrite, 256, 4096),    // 2: implicitly open
		w.NewRequest(disk.OpOpen, 384, 0),        // 3: explicitly open, empty
		w.NewRequest(disk.OpOpen, 512, 0),        // 4: explicitly open, written
		w.NewRequest(disk.OpAppend, 512, 512),    //
		w.NewRequest(disk.OpWrite, 640, 8192),    // 5: closed
		w.NewRequest(disk.OpClose, 640, 0),       //
		w.NewRequest(disk.OpWrite, 768, 96*512),  // 6: full
		w.NewRequest(disk.OpAppend, 896, 1024),   // 7: finished
		w.NewRequest(disk.OpFinish, 896, 0),      //
		w.NewRequest(disk.OpFinish, 1024, 0),     // 8: finished with nothing in it
		w.NewRequest(disk.OpWrite, 1152, 4096),   // 9: reset
		w.NewRequest(disk.OpReset, 1152, 0),      //
		w.NewRequest(disk.OpWrite, 15*128, 4096), // 15: the smaller last zone
		w.NewRequest(disk.OpFlush, 0, 0),
		w.NewRequest(disk.OpAppend, 640, 512), // after the flush
		w.NewRequest(disk.OpWrite, 1280, 96*512),
	} {
		w.Both(r)
	}
	w.CompareAll()
}

func TestCleanReopen(t *testing.T) {
	for name, make := range map[string]func(testing.TB, zone.Geometry) string{"disk": imagetest.New, "memory": imagetest.NewFast} {
		t.Run(name, func(t *testing.T) {
			path := make(t, disktest.Small)
			m := disktest.NewModel(disktest.Small)
			d := openDisk(t, path)
			manyStates(disktest.NewTwin(t, d, m))
			imagetest.CloseDisk(t, d, path)
			for range 2 {
				d = openDisk(t, path)
				disktest.NewTwin(t, d, m).CompareAll()
				imagetest.CloseDisk(t, d, path)
			}
			// "clean" is true wherever the image is copied to, and after a power cut.
			imagetest.CutPower(t, path)
			other := copyFile(t, path)
			for _, p := range []string{path, other} {
				d = openDisk(t, p)
				disktest.NewTwin(t, d, m).CompareAll()
				imagetest.CloseDisk(t, d, p)
			}
		})
	}
}

func copyFile(t testing.TB, path string) string {
	t.Helper()
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	return to.Name()
}

// After a kill -9 everything is as guests were told, flushed or not, whatever
// the daemon was about.
func TestKillReopen(t *testing.T) {
	for name, make := range map[string]func(testing.TB, zone.Geometry) string{"disk": imagetest.New, "memory": imagetest.NewFast} {
		t.Run(name, func(t *testing.T) {
			path := make(t, disktest.Small)
			m := disktest.NewModel(disktest.Small)
			for range 3 { // killed again and again
				d, fs := openFaulty(t, path)
				w := disktest.NewTwin(t, d, m)
				w.Both(w.NewRequest(disk.OpResetAll, 0, 0))
				manyStates(w)
				kill(t, d, fs)
				imagetest.WantClean(t, path)
				d2, fs := openFaulty(t, path)
				disktest.NewTwin(t, d2, m).CompareAll()
				kill(t, d2, fs)
			}
			d := openDisk(t, path)
			disktest.NewTwin(t, d, m).CompareAll()
			imagetest.CloseDisk(t, d, path)
		})
	}
}

// Killed with writes in flight, those that were answered are there; of those
// that were not, nothing or all is told.
func TestKillWithWritesInFlight(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	rs := c.AppendEach(e, 256, 3)
	e.Release(1, disktest.OpFault{}) // the second is answered
	c.WantDone(rs[1])
	first := c.AppendEach(e, 384, 1) // the first of its zone, never answered
	if err := c.ZoneOp(disk.OpOpen, 512); err != nil {
		t.Fatal(err)
	}
	kill(t, d, fs)
	e.Hold = nil
	e.Held = nil
	c.Lane.Forget(2 + len(first)) // they died with the daemon

	d = openDisk(t, path).(*zoned)
	c = disktest.NewClient(t, d)
	c.WantZone(2, zone.ImpOpen, 16)
	c.WantZone(3, zone.Empty, 0)
	c.WantZone(4, zone.ExpOpen, 0)
	if got := c.Read(256, 3*4096); !bytes.Equal(got, slices.Concat(make([]byte, 4096), disktest.Pattern('b', 4096), make([]byte, 4096))) {
		t.Error("other data than was answered for")
	}
	at, err := c.Append(256, disktest.Pattern('n', 512))
	if err != nil || at != 256+16 {
		t.Errorf("the next append landed at %d, %v", at, err)
	}
	imagetest.CloseDisk(t, d, path)
}

// A power cut leaves what was flushed. What was not may be there or not, but
// what is told is whole, and nothing shows that was never told.
func TestPowerCut(t *testing.T) {
	for name, make := range map[string]func(testing.TB, zone.Geometry) string{"disk": imagetest.New, "memory": imagetest.NewFast} {
		t.Run(name, func(t *testing.T) {
			path := make(t, disktest.Small)
			m := disktest.NewModel(disktest.Small)
			d, fs := openFaulty(t, path)
			w := disktest.NewTwin(t, d, m)
			manyStates(w)
			w.Both(w.NewRequest(disk.OpFlush, 0, 0))
			flushed := m.CloneModel()
			// All of this is lost.
			for _, r := range []*disk.Request{
				w.NewRequest(disk.OpWrite, 256+8, 4096),
				w.NewRequest(disk.OpFinish, 512, 0),
				w.NewRequest(disk.OpAppend, 640, 96*512-8192-512),
				w.NewRequest(disk.OpAppend, 640, 512),
				w.NewRequest(disk.OpWrite, 1408, 4096),
				w.NewRequest(disk.OpClose, 256, 0),
			} {
				w.Both(r)
			}
			kill(t, d, fs)
			imagetest.CutPower(t, path)
			imagetest.WantClean(t, path)
			for i := range flushed.Zones {
				switch z := &flushed.Zones[i]; {
				case z.State == zonemodel.ExpOpen && z.WP == z.Start:
					z.State = zonemodel.Empty
				case z.State.IsOpen():
					z.State = zonemodel.Closed
				}
			}
			flushed.Opened = nil
			want := slices.Clone(flushed.Zones)
			wantReport(t, path, false, func() (zs []zone.Descriptor) {
				for i := range want {
					zs = append(zs, flushed.Report(i))
				}
				return zs
			}())

			// Looking at it changes nothing.
			before := hashFile(t, path)
			ro, err := Open(path, disk.Options{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			disktest.NewTwin(t, ro, flushed).CompareAll()
			if err := ro.Close(); err != nil {
				t.Fatal(err)
			}
			if hashFile(t, path) != before {
				t.Error("opened read-only, the image changed")
			}

			d2 := openDisk(t, path)
			disktest.NewTwin(t, d2, flushed).CompareAll()
			imagetest.CloseDisk(t, d2, path)
			// Not only is what was lost not shown: it is gone.
			for i, z := range flushed.Zones {
				raw := imagetest.RawZone(t, path, i)
				if z.State != zonemodel.NotWP && len(bytes.TrimLeft(raw[(z.WP-z.Start)*disk.SectorSize:], "\x00")) != 0 {
					t.Errorf("zone %d has data above its write pointer in the file", i)
				}
			}
		})
	}
}

func hashFile(t disktest.TB, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// An image that was copied while it was in use is one after a power cut: the
// copy of its live table is of no instant.
func TestCopyOfImageInUse(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	c.WantError(c.Flush(), nil)
	c.WantError(c.Write(264, disktest.Pattern('b', 4096)), nil)
	other := copyFile(t, path)
	kill(t, d, fs)
	d2 := openDisk(t, other)
	c = disktest.NewClient(t, d2)
	c.WantZone(2, zone.Closed, 8)
	if got := c.Read(256, 8192); !bytes.Equal(got, append(disktest.Pattern('a', 4096), make([]byte, 4096)...)) {
		t.Error("the copy has other data than was flushed")
	}
	imagetest.CloseDisk(t, d2, other)
	imagetest.CloseDisk(t, openDisk(t, path), path)
}
