package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vfiouser/client"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

func vfioConfig(t *testing.T) Config {
	t.Helper()
	c := goodConfig()
	c.BlkFile = testImage(t)
	c.SocketPath, c.VFIOUser = "", filepath.Join(socketDir(t), "s")
	c.Queues = 3
	return c
}

// vfioClient connects a client, and checks that it has found the function.
func vfioClient(t *testing.T, path string) *client.Client {
	t.Helper()
	c, err := client.Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	foundFunction(t, c)
	return c
}

func foundFunction(t *testing.T, c *client.Client) {
	t.Helper()
	var id [12]byte
	if err := c.Read(7, id[:], 0); err != nil {
		t.Fatal(err)
	}
	if got := string(id[:4]) + string(id[9:]); got != "\xf4\x1a\x42\x10\x00\x80\x01" {
		t.Errorf("vendor, device and class %q", got)
	}
	// One vector for each queue and one for changes of the configuration.
	if i, err := c.IRQ(2); err != nil || i.Count != 4 {
		t.Errorf("%+v, %v", i, err)
	}
}

// Clients of vfio-user follow each other; a second one waits for the first, and is refused if
// that does not leave. The end of the daemon closes the connection and removes the socket.
func TestVFIOUser(t *testing.T) {
	c := vfioConfig(t)
	c.Trace = true
	d := startDaemon(t, c)
	first := vfioClient(t, c.VFIOUser)
	if second, err := client.Dial(context.Background(), c.VFIOUser); err == nil {
		t.Error("a second client was served beside the first")
		_ = second.Close()
	}
	foundFunction(t, first)
	if want := "refused, front-end pid "; !strings.Contains(d.book.String(), want) {
		t.Errorf("no %q in\n%s", want, d.book)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	second := vfioClient(t, c.VFIOUser)
	if _, err := second.Region(99); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	d.book.Wait(1, "refused DEVICE_GET_REGION_INFO")
	d.end()
	if _, err := second.Info(); err == nil {
		t.Error("the connection is still there")
	}
	if _, err := os.Lstat(c.VFIOUser); err == nil {
		t.Error("the socket is still there")
	}
}

// A front-end of vhost-user at a socket of vfio-user, and the other way round, ends its session
// only, and a line says what it has sent.
func TestWrongProtocol(t *testing.T) {
	c := vfioConfig(t)
	d := startDaemon(t, c)
	f, err := frontend.Dial(c.VFIOUser)
	if err == nil {
		_, err = f.Features()
	}
	if !errors.Is(err, frontend.ErrGone) {
		t.Error(err)
	}
	d.book.Wait(1, "session ended")
	vfioClient(t, c.VFIOUser)
	_ = f.Close()
	d.end()
	c.SocketPath, c.VFIOUser = c.VFIOUser, ""
	d = startDaemon(t, c)
	if v, err := client.Dial(context.Background(), c.SocketPath); err == nil {
		t.Error("a client of vfio-user was served over vhost-user")
		_ = v.Close()
	}
	d.book.Wait(1, "session ended")
	connect(t, c.SocketPath)
	d.end()
}
