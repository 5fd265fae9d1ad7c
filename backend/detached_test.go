package backend

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/plain"
)

// A disk that cannot store what it was given is not let go of: who opened it next
// would be told by its first sync that all is well.
func TestLetGoKeepsWhatIsNotStored(t *testing.T) {
	check := func(t *testing.T, path string, d disk.Disk, flush func() error) {
		t.Helper()
		for range 2 {
			left, err := LetGo(d)
			if err == nil || left != d {
				t.Fatalf("let go of: %v, detached %v", err, isDetached(left))
			}
			if other, err := Open(path, disk.Options{}); err == nil {
				t.Fatalf("somebody else can have it (%v)", other.Close())
			} else if !disk.IsInUse(err) {
				t.Fatal(err)
			}
		}
		if err := flush(); err == nil || !strings.Contains(err.Error(), "earlier sync failed") {
			t.Errorf("a flush behind it: %v", err)
		}
	}
	t.Run("plain", func(t *testing.T) {
		path := newPlain(t, 1<<20)
		d := openDisk(t, path)
		defer d.Close()
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(0, make([]byte, 512)), nil)
		r, w, err := os.Pipe() // cannot be synced
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		d.(*plain.Disk).SyncOn(int(w.Fd()))
		check(t, path, d, c.Flush)
	})
	t.Run("plain, an earlier flush failed", func(t *testing.T) {
		path := newPlain(t, 1<<20)
		d := openDisk(t, path)
		defer d.Close()
		c, e := disktest.HeldClient(t, d, nil)
		c.WantError(c.Write(0, make([]byte, 512)), nil)
		e.Fault = func(*engine.Op) disktest.OpFault { return disktest.OpFault{Err: unix.EIO} }
		c.WantError(c.Flush(), disk.ErrIO)
		e.Fault = nil
		check(t, path, d, c.Flush)
	})
	t.Run("image", func(t *testing.T) {
		path := imagetest.New(t, disktest.Small)
		d, fs := openFaulty(t, path)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(128*2, make([]byte, 4096)), nil)
		fs.mu.Lock()
		fs.before = failing("sync", unix.EIO)
		fs.mu.Unlock()
		check(t, path, d, c.Flush)
		kill(t, d, fs)
	})
}
