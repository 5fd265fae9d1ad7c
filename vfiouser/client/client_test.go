package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/vfiouser"
	"github.com/zvhost/zvhost/vfiouser/client"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// A device echoes what is written to its region, counts resets in it, and signals vector 0 at
// each write.
type device struct {
	mu    sync.Mutex
	mem   [64]byte
	maps  int
	files []*foreign.FD
	fd    int
}

func (d *device) Info() vfiouser.Info {
	return vfiouser.Info{
		Regions: []vfiouser.Region{{Size: 64, Flags: vfiouser.RegionReadable | vfiouser.RegionWritable}},
		IRQs:    []vfiouser.IRQ{{Count: 40, Flags: vfiouser.IRQEventfd}},
	}
}

func (d *device) ReadRegion(_ uint32, dst []byte, off uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(dst, d.mem[off:])
	return nil
}

func (d *device) WriteRegion(_ uint32, src []byte, off uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.mem[off:], src)
	if d.fd >= 0 {
		foreign.Signal(d.fd)
	}
	return nil
}

func (d *device) MapDMA(_ vfiouser.DMA, file *foreign.FD) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.maps++
	d.files = append(d.files, file)
	return nil
}

func (d *device) UnmapDMA(maps []vfiouser.DMA) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.maps -= len(maps)
	return nil
}

func (d *device) SetIRQ(_, vector uint32, eventfd int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if vector == 0 {
		d.fd = eventfd
	}
}

func (d *device) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mem[63]++
	return nil
}

func (d *device) Disconnect() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		_ = f.Close()
	}
	d.fd = -1
}

// serve serves one client at a path.
func serve(t *testing.T, d *device) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		s, err := vfiouser.NewSession(c.(*net.UnixConn), d, vfiouser.Options{})
		if err == nil {
			err = s.Run()
		}
		done <- err
	}()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = l.Close()
	})
	return path
}

func TestClient(t *testing.T) {
	d := &device{fd: -1}
	c, err := client.Dial(context.Background(), serve(t, d))
	if err != nil {
		t.Fatal(err)
	}
	if c.Minor != 1 || !strings.Contains(c.Capabilities, `"max_msg_fds":16`) {
		t.Errorf("0.%d %s", c.Minor, c.Capabilities)
	}
	i, err := c.Info()
	if err != nil || i.Regions != 1 || i.IRQs != 1 {
		t.Errorf("%+v, %v", i, err)
	}
	r, err := c.Region(0)
	if err != nil || r.Size != 64 {
		t.Errorf("%+v, %v", r, err)
	}
	q, err := c.IRQ(0)
	if err != nil || q.Count != 40 {
		t.Errorf("%+v, %v", q, err)
	}
	var fds []int
	for range 40 { // more than one message carries
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(fd) }()
		fds = append(fds, fd)
	}
	mem, err := unix.MemfdCreate("client", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(mem) }()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("eventfds", c.SetEventfds(0, 0, fds...))
	check("map", c.Map(0, 0x1000, 0, mem))
	check("map without descriptor", c.Map(0x1000, 0x1000, 0, -1))
	check("unmap", c.Unmap(0x1000, 0x1000))
	check("write", c.Write(0, []byte("hello"), 3))
	check("post", c.Post(0, []byte("J"), 3))
	var b [5]byte
	check("read", c.Read(0, b[:], 3))
	if string(b[:]) != "Jello" {
		t.Errorf("read %q", b)
	}
	var n [8]byte
	if _, err := unix.Read(fds[0], n[:]); err != nil || n[0] != 2 {
		t.Errorf("%d interrupts, %v", n[0], err)
	}
	check("unmap all", c.UnmapAll())
	check("disable", c.DisableIRQs(0))
	check("reset", c.Reset())
	check("read", c.Read(0, b[:1], 63))
	d.mu.Lock()
	if b[0] != 1 || d.maps != 0 || d.fd != -1 {
		t.Errorf("%d resets, %d maps, eventfd %d", b[0], d.maps, d.fd)
	}
	d.mu.Unlock()
	if err := c.Read(0, b[:], 60); !errors.Is(err, unix.EINVAL) {
		t.Errorf("behind the end: %v", err)
	}
	check("read again", c.Read(0, b[:], 0)) // the connection goes on
	if err := c.PostCommand(vfiouser.Reset, nil); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for g := range 4 { // any goroutine may call
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 50 {
				want := [1]byte{byte(g*50 + i)}
				var got [1]byte
				if err := c.Write(0, want[:], uint64(g)); err != nil {
					t.Error(err)
				}
				if err := c.Read(0, got[:], uint64(g)); err != nil || got != want {
					t.Errorf("%v, want %v, %v", got, want, err)
				}
			}
		}()
	}
	wg.Wait()
	check("close", c.Close())
}

// What a server must not do is found.
func TestClientMistrusts(t *testing.T) {
	version := vfiouser.VersionData{Minor: 1, Data: []byte("{}\x00")}.Append(nil)
	for _, c := range []struct {
		name    string
		h       vfiouser.Header
		payload []byte
		why     string
	}{
		{"another id", vfiouser.Header{ID: 9, Command: vfiouser.Version, Flags: vfiouser.FlagReply}, version, "is one to VERSION 9"},
		{"another command", vfiouser.Header{ID: 1, Command: vfiouser.Reset, Flags: vfiouser.FlagReply}, version, "is one to DEVICE_RESET"},
		{"a command", vfiouser.Header{ID: 1, Command: vfiouser.Version}, version, "message type 0"},
		{"an error", vfiouser.Header{ID: 1, Command: vfiouser.Version, Flags: vfiouser.FlagReply | vfiouser.FlagError, Errno: 22}, nil, "invalid argument"},
		{"an error without a number", vfiouser.Header{ID: 1, Command: vfiouser.Version, Flags: vfiouser.FlagReply | vfiouser.FlagError}, nil, "input/output error"},
		{"a version", vfiouser.Header{ID: 1, Command: vfiouser.Version, Flags: vfiouser.FlagReply}, vfiouser.VersionData{Minor: 2}.Append(nil), "speaks 0.2"},
		{"short", vfiouser.Header{ID: 1, Command: vfiouser.Version, Flags: vfiouser.FlagReply}, []byte{0}, "1 bytes"},
	} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- misbehave(l, c.h, c.payload) }()
		if _, err := client.Dial(context.Background(), path); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", c.name, err, c.why)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = l.Close()
	}
	if _, err := client.Dial(context.Background(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}

// misbehave answers the first command with this.
func misbehave(l net.Listener, h vfiouser.Header, payload []byte) error {
	uc, err := l.Accept()
	if err != nil {
		return err
	}
	conn, err := vfiouser.NewConn(uc.(*net.UnixConn))
	if err != nil {
		return err
	}
	var m vfiouser.Message
	if err := conn.ReadCommand(&m); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if err := conn.Write(h, payload); err != nil {
		return err
	}
	_ = conn.ReadCommand(&m) // until it has gone
	return conn.Close()
}
