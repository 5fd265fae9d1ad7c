package backend

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
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
				t.Fatalf("let go of: %v, away %v", err, isAway(left))
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
		c := newClient(t, d)
		c.want(c.write(0, make([]byte, 512)), nil)
		r, w, err := os.Pipe() // cannot be synced
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		d.(*plain.Disk).SyncOn(int(w.Fd()))
		check(t, path, d, c.flush)
	})
	t.Run("plain, an earlier flush failed", func(t *testing.T) {
		path := newPlain(t, 1<<20)
		d := openDisk(t, path)
		defer d.Close()
		c, e := heldClient(t, d, nil)
		c.want(c.write(0, make([]byte, 512)), nil)
		e.fault = func(*engine.Op) fault { return fault{err: unix.EIO} }
		c.want(c.flush(), disk.ErrIO)
		e.fault = nil
		check(t, path, d, c.flush)
	})
	t.Run("image", func(t *testing.T) {
		path := newImage(t, small)
		d, fs := openFaulty(t, path)
		c := newClient(t, d)
		c.want(c.write(128*2, make([]byte, 4096)), nil)
		fs.mu.Lock()
		fs.before = failing("sync", unix.EIO)
		fs.mu.Unlock()
		check(t, path, d, c.flush)
		kill(t, d, fs)
	})
	t.Run("drive, an earlier flush failed", func(t *testing.T) {
		d := newFakeDrive(t, small, nil, nil).drive
		lost := error(unix.EIO)
		d.lost.Store(&lost)
		if left, err := LetGo(d); err == nil || left != disk.Disk(d) {
			t.Errorf("let go of: %v", err)
		}
	})
}
