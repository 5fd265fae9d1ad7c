package device

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/control"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// An ordinary disk whose file has grown is larger for a guest that uses it: asked
// over the control socket, the daemon tells the front-end, which reads the
// configuration space, and the new sectors are there.
func TestGrowWhileUsed(t *testing.T) {
	r := plainRig(t, 1)
	path := filepath.Join(t.TempDir(), "control")
	defer r.control(path).close()
	resize := func(want control.Answer) {
		t.Helper()
		a, err := control.Call(path, control.Request{Command: control.Resize})
		if err != nil || a.Was != want.Was || a.Sectors != want.Sectors || a.Told != want.Told {
			t.Fatalf("%+v, %v, not %+v", a, err, want)
		}
	}
	grow := func(bytes int64) {
		t.Helper()
		if err := os.Truncate(r.path, bytes); err != nil {
			t.Fatal(err)
		}
	}
	g := r.connect(frontend.Options{})
	q, buf := g.Queue(0), make([]byte, 512)
	g.want("read past the end", driver.StatusIOErr, q.Read(buf, 2048))
	resize(control.Answer{Was: 2048, Sectors: 2048})
	grow(2 << 20)
	g.want("read past the end", driver.StatusIOErr, q.Read(buf, 2048))
	resize(control.Answer{Was: 2048, Sectors: 4096}) // nobody to tell
	g.want("read", driver.StatusOK, q.Read(buf, 2048))

	socks, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(socks[0]) }()
	err = g.Client.SetBackendReqFD(socks[1])
	_ = unix.Close(socks[1])
	if err != nil {
		t.Fatal(err)
	}
	grow(4 << 20)
	resize(control.Answer{Was: 4096, Sectors: 8192, Told: true})
	wire := make([]byte, 64)
	n, err := unix.Read(socks[0], wire)
	if want := (vhostuser.Header{Request: vhostuser.Request(vhostuser.BackConfigChange), Flags: vhostuser.Version}.Append(nil)); err != nil || !bytes.Equal(wire[:n], want) {
		t.Fatalf("%x, %v", wire[:max(n, 0)], err)
	}
	space, err := g.Client.Config(0, driver.BlkConfigBytes)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := driver.ParseBlkConfig(space); err != nil || c.Capacity != 8192 {
		t.Errorf("capacity %d, %v", c.Capacity, err)
	}
	g.want("write", driver.StatusOK, q.Write(pattern(512, 1), 8191))
	g.want("write past the end", driver.StatusIOErr, q.Write(pattern(512, 1), 8192))
	resize(control.Answer{Was: 8192, Sectors: 8192, Told: true}) // once too often does no harm

	grow(1 << 20)
	if _, err := control.Call(path, control.Request{Command: control.Resize}); err == nil || !strings.Contains(err.Error(), "shrunk from 8192 sectors to 2048") {
		t.Errorf("a disk that shrank: %v", err)
	}
	g.want("write", driver.StatusIOErr, q.Write(pattern(512, 1), 0))
	g.leave()
	r.logged("the disk has grown from 2 MiB to 4 MiB")
	r.closed = true
	if err := errors.Join(r.dev.Close(), r.dev.disk.Close()); err == nil || !strings.Contains(err.Error(), "cut it short") {
		t.Errorf("closed with %v", err)
	}
}

// A zoned disk says why it keeps its size.
func TestZonedDoesNotGrow(t *testing.T) {
	r := zonedRig(t, smallZones, 1)
	g := r.connect(frontend.Options{})
	if _, _, told, err := r.dev.Grow(); err == nil || told || !strings.Contains(err.Error(), "the disk is zoned: its size is fixed") {
		t.Errorf("%v, %v", told, err)
	}
	if c := g.Config; c.Capacity != r.disk.Info().CapacitySectors {
		t.Errorf("capacity %d", c.Capacity)
	}
	g.leave()
	r.nextIsServed()
}
