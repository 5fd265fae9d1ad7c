package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// kept is a keeper whose daemon serves file, with options that set changes for the
// next one.
func kept(t *testing.T, file, first string) (p *program, set func(options string)) {
	t.Helper()
	set = func(options string) {
		t.Helper()
		if err := os.WriteFile("options", []byte(options), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set(first)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, "", nil, nil, "keeper", "--", "sh", "-c", `exec "$0" serve --socket-path=s --blk-file=`+file+` $(cat options)`, self), set
}

// A daemon that cannot go on with its predecessor's session, here for want of queues or
// with more of them, says so and leaves it: the guest goes on when one comes that can.
func TestUnfitDaemon(t *testing.T) {
	imageHere(t)
	p, set := kept(t, "disk.zvh", "--queues=2")
	p.until("serving disk.zvh on s")
	c := dial(t, "s")
	if n, err := c.QueueNum(); n != 2 || err != nil {
		t.Fatalf("%d queues, %v", n, err)
	}
	for i, queues := range []string{"1", "3"} {
		set("--queues=" + queues)
		p.signal(unix.SIGHUP)
		p.until("it has 2 queues, and this device " + queues + ": start zvhost with the same --queues; the session is left as it is")
		set("--queues=2")
		p.times(1+i, "front-end of the previous process: session resumed")
		if n, err := c.QueueNum(); n != 2 || err != nil {
			t.Errorf("%d queues, %v:\n%s", n, err, p.logged())
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	p.until("front-end of the previous process: left")
	dial(t, "s") // the socket is as it was
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
}

// A daemon that cannot begin leaves the session, and the socket, to one that can.
func TestDaemonThatCannotBegin(t *testing.T) {
	for _, wrong := range []string{"--control-path=none/c", "--socket-path=none/s"} {
		imageHere(t)
		p, options := kept(t, "disk.zvh", "")
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
		p.until("front-end of the previous process: left")
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
	p, _ := kept(t, "disk.zvh", "--control-path=none/c")
	if status := p.wait(); status != exitLasting {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
	if _, err := os.Lstat("s"); err == nil {
		t.Error("the socket is still there")
	}
}

// A keeper does not start a daemon again that cannot begin for a reason that stays, once no
// guest waits for it.
func TestKeeperGivesUp(t *testing.T) {
	imageHere(t)
	p, options := kept(t, "disk.zvh", "")
	p.until("serving disk.zvh on s")
	options("--control-path=none/c")
	p.signal(unix.SIGHUP)
	if status := p.wait(); status != exitLasting {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
}

// SIGTERM sent to the daemon, and not to its keeper, has it hand over: the keeper starts
// the next one. With SIGINT it ends, and the keeper with it.
func TestSIGTERMToTheDaemon(t *testing.T) {
	for _, session := range []bool{true, false} {
		imageHere(t)
		p, _ := kept(t, "disk.zvh", "")
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

// A daemon that was started with other options, and so does not offer what the guest's
// driver has taken, does not go on in its own way: it leaves the session.
func TestUnfitOptions(t *testing.T) {
	for name, c := range map[string]struct{ file, option string }{
		"zoned, split rings": {"disk.zvh", "--split-rings"},
		"plain, split rings": {"disk.raw", "--split-rings"},
		"zoned, read-only":   {"disk.zvh", "--read-only"},
		"plain, read-only":   {"disk.raw", "--read-only"},
	} {
		t.Run(name, func(t *testing.T) {
			imageHere(t)
			if err := os.WriteFile("disk.raw", make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			p, set := kept(t, c.file, "")
			p.until("serving " + c.file + " on s")
			d, err := frontend.Open(dial(t, "s"), frontend.Options{Packed: true})
			if err != nil {
				t.Fatal(err)
			}
			set(c.option)
			p.signal(unix.SIGHUP)
			p.until("start zvhost with the same disk and options; the session is left as it is")
			set("")
			p.until("front-end of the previous process: session resumed")
			buf := make([]byte, 4096)
			status(t, "write", driver.StatusOK, d.Queue(0).Write(buf, 0))
			status(t, "read", driver.StatusOK, d.Queue(0).Read(buf, 0))
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			p.signal(unix.SIGTERM)
			if status := p.wait(); status != exitOK {
				t.Errorf("status %d:\n%s", status, p.logged())
			}
		})
	}
}

// Ctrl-C is sent to all processes of the terminal's foreground: the daemon hears of it once,
// from its keeper, and finishes what is in flight.
func TestInterruptFromTheTerminal(t *testing.T) {
	imageHere(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "keeper", "--", self, "serve", "--socket-path=s", "--blk-file=disk.zvh")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := launch(t, cmd, nil)
	p.until("serving disk.zvh on s")
	dial(t, "s")
	if err := unix.Kill(-cmd.Process.Pid, unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(); status != exitOK || strings.Contains(p.logged(), "again") {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
}
