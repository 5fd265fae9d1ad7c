package main

import (
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vfiouser/client"
)

// Under a keeper a line says that a restart is not invisible behind vfio-user. The client loses
// its connection, and the next one finds the socket of before.
func TestKeeperVFIOUser(t *testing.T) {
	imageHere(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "", nil, nil, "keeper", "--", self, "serve", "--vfio-user=s", "--blk-file=disk.zvh")
	p.until("--vfio-user: a restart of this daemon is not invisible to the guest")
	p.until("serving disk.zvh on s")
	before, err := os.Lstat("s")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(context.Background(), "s")
	if err != nil {
		t.Fatal(err)
	}
	p.signal(unix.SIGHUP)
	p.times(2, "serving disk.zvh on s")
	if _, err := c.Info(); err == nil {
		t.Error("the connection is still there")
	}
	_ = c.Close()
	after, err := os.Lstat("s")
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the socket is another one, %v", err)
	}
	if c, err = client.Dial(context.Background(), "s"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Info(); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
}
