package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A file system that is full fails the writes that need space and nothing else,
// and once there is space again all goes on, without a restart. A real one: a
// tmpfs of 2 MiB in a mount namespace of the daemon's own.
func TestFileSystemUnderTheImageFillsUp(t *testing.T) {
	dir := t.TempDir()
	small, socket := filepath.Join(dir, "small"), filepath.Join(dir, "z.sock")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `{ mount --make-rprivate / 2>/dev/null || true; } && mount -t tmpfs -o size=2m,mode=700 none "$1" && cd "$1" && "$0" create disk.zvh --size 16M --zone-size 256K >&2 &&
		exec "$0" serve --socket-path "$2" --blk-file disk.zvh`, self, small, socket)
	// Root needs no user namespace, which the kernel refuses in a chroot (clone(2), EPERM).
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	// In a chroot the root may be no mount point that could be made private, and then the
	// mount is seen outside, too.
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	if os.Getuid() != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}
	p := launch(t, cmd, nil)
	p.until("serving disk.zvh on")
	d, err := frontend.Open(dial(t, socket), frontend.Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, p.logged())
	}
	defer d.Close()
	q := d.Queue(0)
	const zone, chunk = 256 << 10 >> 9, 64 << 10 // sectors, bytes
	data := func(n int) []byte { return bytes.Repeat([]byte{byte(n + 1)}, chunk) }

	// Zone after zone, until the file system is full.
	full, wp := -1, uint64(0)
	for n := range 4 * 64 {
		at, err := q.Append(data(n), uint64(n/4*zone))
		if err == nil {
			if want := uint64(n * chunk >> 9); at != want {
				t.Fatalf("append %d landed at %d, not %d", n, at, want)
			}
			continue
		}
		if s := frontend.Status(err); s != driver.StatusIOErr {
			t.Fatalf("append %d: status %s, not IOERR", n, driver.StatusString(s))
		}
		full, wp = n, uint64(n*chunk>>9)
		break
	}
	if full < 8 {
		t.Fatalf("append %d of 64 KiB found no space in 2 MiB", full)
	}
	p.until("no space left on device")
	check := func(what string, from, n int) {
		t.Helper()
		got := make([]byte, chunk)
		for i := from; i < n; i++ {
			if err := q.Read(got, uint64(i*chunk>>9)); err != nil || !bytes.Equal(got, data(i)) {
				t.Errorf("%s: append %d does not read back: %v", what, i, err)
			}
		}
	}
	zoneAt := func(sector uint64) driver.Zone {
		t.Helper()
		zones, err := q.Report(sector, 1)
		if err != nil || len(zones) != 1 {
			t.Fatal(zones, err)
		}
		return zones[0]
	}
	if z := zoneAt(wp &^ (zone - 1)); z.WP != wp {
		t.Errorf("the write pointer of the zone that is cut off is %d, not %d", z.WP, wp)
	}
	check("when it is full", 0, full)
	if _, err := q.Append(data(full), uint64(full/4*zone)); frontend.Status(err) != driver.StatusIOErr {
		t.Errorf("once more: %v", err)
	}

	// A reset gives space back, before its zone takes a write; and the zone that
	// found none goes on where it was.
	if err := q.Zone(driver.TypeZoneReset, 0); err != nil {
		t.Fatal(err)
	}
	for _, to := range []struct {
		n  int
		at uint64
	}{{0, 0}, {full, wp}} {
		if at, err := q.Append(data(to.n), uint64(to.n/4*zone)); err != nil || at != to.at {
			t.Fatalf("with space again append %d landed at %d, not %d: %v", to.n, at, to.at, err)
		}
	}
	check("with space again", 0, 1)
	check("with space again", 4, full+1)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("it ended with status %d:\n%s", status, p.logged())
	}
}
