package backend

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/plain"
	"github.com/zvhost/zvhost/backend/zone"
)

// diesWithLock, in the environment, makes this binary take the lock of its
// descriptor 3 and end.
const diesWithLock = "ZVHOST_TEST_DIES_WITH_LOCK"

func TestDiesWithLock(t *testing.T) {
	if os.Getenv(diesWithLock) == "" {
		return // called by TestLockOutlivesItsHolder only
	}
	if err := unix.Flock(3, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
}

// What has a file open besides its process, such as an io_uring that the kernel
// takes apart in its own time, keeps the lock for a moment after that one's end.
func TestLockOutlivesItsHolder(t *testing.T) {
	path := newPlain(t, 1<<20)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDiesWithLock$")
	cmd.Env, cmd.ExtraFiles = append(childEnv(), diesWithLock+"=1"), []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	time.AfterFunc(300*time.Millisecond, func() { _ = f.Close() })
	d, err := Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// Close gives the lock back, even when the file stays open for a while.
func TestCloseUnlocks(t *testing.T) {
	im := filepath.Join(t.TempDir(), "disk.zvh")
	if err := image.Create(im, zone.Geometry{CapacitySectors: 1024, ZoneSectors: 128}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{newPlain(t, 1<<20), im} {
		d, err := Open(path, disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var f *os.File
		switch d := d.(type) {
		case *plain.Disk:
			f = d.File()
		case *zoned:
			f = d.img.File
		}
		still, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if d, err = Open(path, disk.Options{}); err != nil {
			t.Errorf("%s: %v", path, err)
		} else if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := unix.Close(still); err != nil {
			t.Error(err)
		}
	}
}
