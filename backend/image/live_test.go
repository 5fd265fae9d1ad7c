package image

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// The live table is mapped where the file is in memory, and written elsewhere; that it is
// not there any more is noticed in both.
func TestLiveTableIsMappedInMemory(t *testing.T) {
	for _, mapped := range []bool{true, false} {
		dir := disktest.FastDir(t)
		if !mapped {
			dir = t.TempDir()
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil || disk.InMemory(fs.Type) != mapped {
			t.Fatalf("%s: in memory is %v here, %v: /dev/shm has to be a tmpfs, and TMPDIR none", dir, disk.InMemory(fs.Type), err)
		}
		path := filepath.Join(dir, "disk.zvh")
		if err := Create(path, disktest.Small); err != nil {
			t.Fatal(err)
		}
		img, err := Open(path, disk.Options{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if table := &img.Live; (table.mem != nil) != mapped || (table.words != nil) == mapped {
			t.Errorf("%s: the table is mapped: %v, but %v is right there", path, table.mem != nil, mapped)
		}
		r, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if mapped {
			err = os.Truncate(path, format.LiveOff)
		} else { // a write would make the file longer again
			img.Live.FD = int(r.Fd())
		}
		if err != nil {
			t.Fatal(err)
		}
		if img.Live.storeAll(make([]zone.Entry, img.Zones())) {
			t.Error("a table that is not there was written")
		}
		if err := img.Release(); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Only the mapping's faults are recovered from: all else is a bug.
func TestOnlyFaultsOfTheTableAreRecovered(t *testing.T) {
	table := LiveTable{mem: make([]byte, 64)}
	defer func() {
		if recover() == nil {
			t.Error("a zone that is not there was stored")
		}
	}()
	table.Store(8, 1)
}
