package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// A daemon that cannot go on with its predecessor's session, here for want of queues,
// says so and leaves it: the guest goes on when one comes that can.
func TestUnfitDaemon(t *testing.T) {
	imageHere(t)
	p, options := kept(t, "--queues=2")
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

// kept is a keeper whose daemon has besides its own what stands in the file options,
// at each start anew.
func kept(t *testing.T, first string) (p *program, options func(text string)) {
	t.Helper()
	options = func(text string) {
		t.Helper()
		if err := os.WriteFile("options", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	options(first)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, "", nil, nil, "keeper", "--", "sh", "-c", `exec "$0" serve --socket-path=s --blk-file=disk.zvh $(cat options)`, self), options
}

// A daemon that cannot begin leaves the session, and the socket, to one that can.
func TestDaemonThatCannotBegin(t *testing.T) {
	for _, wrong := range []string{"--control-path=none/c", "--socket-path=none/s"} {
		imageHere(t)
		p, options := kept(t, "")
		p.until("serving disk.zvh on s")
		c := dial(t, "s")
		options(wrong)
		p.signal(unix.SIGHUP)
		p.until("the socket's directory none")
		options("")
		if n, err := c.QueueNum(); n != 1 || err != nil {
			t.Fatalf("%s: %d queues, %v:\n%s", wrong, n, err, p.logged())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		p.until("front-end of the process before: left")
		dial(t, "s")
		p.signal(unix.SIGTERM)
		if status := p.wait(); status != exitOK {
			t.Errorf("%s: status %d:\n%s", wrong, status, p.logged())
		}
	}
}

// One that cannot begin at the first start leaves nothing behind.
func TestFirstDaemonThatCannotBegin(t *testing.T) {
	imageHere(t)
	p, _ := kept(t, "--control-path=none/c")
	if status := p.wait(); status != exitFailure {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
	if _, err := os.Lstat("s"); err == nil {
		t.Error("the socket is still there")
	}
}

// SIGTERM sent to the daemon, and not to its keeper, has it hand over: the keeper starts
// the next one. With SIGINT it ends, and the keeper with it.
func TestSIGTERMToTheDaemon(t *testing.T) {
	for _, session := range []bool{true, false} {
		imageHere(t)
		p, _ := kept(t, "")
		p.until("serving disk.zvh on s")
		var c *frontend.Client
		if session {
			c = dial(t, "s")
		}
		p.signalChild(unix.SIGTERM)
		p.until("starting it again")
		if !session {
			c = dial(t, "s")
		}
		if n, err := c.QueueNum(); n != 1 || err != nil {
			t.Fatalf("%d queues, %v:\n%s", n, err, p.logged())
		}
		p.times(2, "serving disk.zvh on s")
		p.signalChild(unix.SIGINT)
		if status := p.wait(); status != exitOK {
			t.Errorf("status %d:\n%s", status, p.logged())
		}
		if _, err := os.Lstat("s"); err == nil {
			t.Error("the socket is still there")
		}
	}
}
