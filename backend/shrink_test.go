package backend

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/plain"
	"github.com/zvhost/zvhost/internal/loopdev"
)

const cutShort = "cut it short while it is served"

// wantCutShort says that err is the one of a disk whose file is too short.
func wantCutShort(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), cutShort) {
		t.Errorf("%s: got %v, want it to say %q", what, err, cutShort)
	}
}

// The file under a disk is cut short, and then a write makes it as long as it was,
// with a hole where there was data. Nobody is told that the data is there as zeroes,
// nor that anything is stored, and the disk does not close in good order.
func TestFileShrinks(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dir string, o disk.Options, kind engine.Kind) {
		for _, zoned := range []bool{false, true} {
			for _, first := range []string{"read", "write", "write ahead", "flush", "zeroes", "manage", "nothing"} {
				for _, to := range []int64{0, 4096, 1 << 16, -512} { // the last within the last page
					path, start := shrinking(t, dir, zoned), uint64(0)
					if to < 0 {
						to += sizeAt(t, path)
					}
					d, err := Open(path, o)
					if err != nil {
						t.Fatal(err)
					}
					if z := d.Info().Zoned; z != nil {
						start = 3 * z.ZoneSectors
					}
					c := disktest.NewClientOn(t, d, kind.Open)
					whole := crooked(32<<10, 0)
					copy(whole, disktest.Pattern('x', len(whole)))
					c.WantError(c.Write(start, whole), nil)
					c.WantError(c.Flush(), nil)
					if err := os.Truncate(path, to); err != nil {
						t.Fatal(err)
					}
					last := d.Info().CapacitySectors - 8
					switch {
					case first == "read": // what is cut off for sure
						c.WantError(c.Do(disktest.NewRequest(disk.OpRead, start+56, crooked(4096, 0))), map[bool]error{true: disk.ErrIO}[to <= 4096 || zoned && to == 1<<16])
					case first == "write" && zoned:
						c.WantError(c.Write(15*disktest.Small.ZoneSectors, crooked(32<<10, 0)), disk.ErrIO)
					case first == "write":
						c.WantError(c.Write(last, crooked(4096, 0)), disk.ErrIO)
					case first == "write ahead": // before the last page
						if err := c.Write(start+64, crooked(4096, 0)); err == nil && to%4096 == 0 {
							t.Errorf("a write was answered with success, of a file of %d bytes", to)
						}
					case first == "flush":
						c.WantError(c.Flush(), disk.ErrIO)
					case first == "zeroes" && !zoned:
						c.WantError(c.Do(ranges(disk.OpWriteZeroes, disk.Range{Sector: last, Sectors: 8})), disk.ErrIO)
					case first == "manage" && zoned:
						c.WantError(c.ZoneOp(disk.OpReset, start), disk.ErrIO)
					}
					if first != "nothing" {
						wantCutShort(t, "flush", c.Flush())
						wantCutShort(t, "read", c.Do(disktest.NewRequest(disk.OpRead, start, crooked(4096, 0))))
						wantCutShort(t, "write", c.Write(start, crooked(4096, 0)))
					}
					wantCutShort(t, first+", close", d.Close())
					if size := sizeAt(t, path); size > to {
						t.Errorf("%s: the file has %d bytes again, and was cut to %d", first, size, to)
					}
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	})
}

// shrinking is a file of 1 MiB, or an image.
func shrinking(t *testing.T, dir string, zoned bool) string {
	t.Helper()
	if zoned {
		return imagetest.NewIn(t, dir, disktest.Small)
	}
	path := filepath.Join(dir, "plain")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sizeAt(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// A loop device does not show that its file was cut short, and a write makes the file longer
// again: what was cut off would read as zeroes, and be stored as such.
func TestFileBeneathShrinks(t *testing.T) {
	onEachEngine(t, func(t *testing.T, _ string, o disk.Options, kind engine.Kind) {
		for _, devices := range []int{1, 2} {
			for _, first := range []string{"write", "flush", "nothing"} {
				file := loopdev.File(t, 1<<20)
				path := file
				for range devices {
					path = loopdev.Attach(t, path, loopdev.Options{}).Path
				}
				d, err := Open(path, o)
				if err != nil {
					t.Fatal(err)
				}
				c := disktest.NewClientOn(t, d, kind.Open)
				c.WantError(c.Write(0, disktest.Pattern('x', 4096)), nil)
				c.WantError(c.Flush(), nil)
				if err := os.Truncate(file, 4096); err != nil {
					t.Fatal(err)
				}
				switch first {
				case "write":
					wantCutShort(t, first, c.Write(1024, crooked(4096, 0)))
				case "flush":
					wantCutShort(t, first, c.Flush())
				}
				if first != "nothing" {
					wantCutShort(t, "read", c.Do(disktest.NewRequest(disk.OpRead, 0, crooked(4096, 0))))
				}
				wantCutShort(t, first+", close", d.Close())
				if size := sizeAt(t, file); size != 4096 {
					t.Errorf("%s: the file has %d bytes, and was cut to 4096", first, size)
				}
			}
		}
	})
}

// A disk that is only read says so, too, when it is closed.
func TestFileShrinksReadOnly(t *testing.T) {
	for _, zoned := range []bool{false, true} {
		path := shrinking(t, t.TempDir(), zoned)
		d, err := Open(path, disk.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		wantCutShort(t, "close", d.Close())
	}
}

// A file that has grown is as good as before, whoever was told of it; and one that
// loses what nobody was shown, too.
func TestFileGrowsAndShrinksBack(t *testing.T) {
	path := shrinking(t, t.TempDir(), false)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	for _, step := range []struct {
		bytes int64
		grow  bool
		good  bool
	}{
		{3 << 20, false, true},
		{2 << 20, true, true},
		{2<<20 + 100, false, true},
		{2 << 20, false, true},
		{2<<20 - 1, false, false},
		{4 << 20, false, false}, // it has been too short, and what it lost is lost
	} {
		if err := os.Truncate(path, step.bytes); err != nil {
			t.Fatal(err)
		}
		if step.grow {
			if n, err := Grow(d); err != nil || n<<disk.SectorShift != uint64(step.bytes) {
				t.Fatal(n, err)
			}
		}
		err := c.Write(0, make([]byte, 4096))
		if err == nil {
			err = c.Flush()
		}
		if step.good != (err == nil) {
			t.Errorf("with %d bytes: %v", step.bytes, err)
		}
	}
	if _, err := d.(*plain.Disk).File().Seek(0, io.SeekStart); err != nil {
		t.Error(err)
	}
	wantCutShort(t, "close", d.Close())
}
