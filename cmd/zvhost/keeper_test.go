package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A daemon that cannot go on with its predecessor's session, here for want of queues,
// says so and leaves it: the guest goes on when one comes that can.
func TestUnfitDaemon(t *testing.T) {
	imageHere(t)
	options := func(text string) {
		t.Helper()
		if err := os.WriteFile("options", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	options("--queues=2")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "", nil, nil, "keeper", "--", "sh", "-c", `exec "$0" serve --socket-path=s --blk-file=disk.zvh $(cat options)`, self)
	p.until("serving disk.zvh on s")
	c := dial(t, "s")
	if n, err := c.QueueNum(); n != 2 || err != nil {
		t.Fatalf("%d queues, %v", n, err)
	}
	options("--queues=1")
	p.signal(unix.SIGHUP)
	p.until("start zvhost with the same --queues; the session is left as it is")
	options("--queues=2")
	p.until("front-end of the process before: goes on")
	if n, err := c.QueueNum(); n != 2 || err != nil {
		t.Errorf("%d queues, %v:\n%s", n, err, p.logged())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	p.until("front-end of the process before: left")
	dial(t, "s") // the socket is as it was
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
}
