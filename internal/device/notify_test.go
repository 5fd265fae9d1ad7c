package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// fullEventFD fills an eventfd.
func fullEventFD(t *testing.T, fd int) {
	t.Helper()
	var b [8]byte
	_, _ = unix.Read(fd, b[:]) // what was signalled is out of the way
	binary.NativeEndian.PutUint64(b[:], 1<<64-2)
	if _, err := unix.Write(fd, b[:]); err != nil {
		t.Fatal(err)
	}
}

// inWrite waits until a thread of this process is stuck in an eventfd.
func inWrite(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		threads, _ := filepath.Glob("/proc/self/task/*/syscall")
		for _, name := range threads {
			// "1 0x.. 0x.. ...": the number of the system call, where the thread waits in one
			text, _ := os.ReadFile(name)
			if f := strings.Fields(string(text)); len(f) > 3 && f[0] == fmt.Sprint(unix.SYS_WRITE) && f[3] == "0x8" {
				return
			}
		}
	}
	t.Fatal("no thread is stuck in a write of 8 bytes")
}

// A front-end has its call descriptor block, and full: neither the end of the session
// nor a message that stops the ring, or replaces the descriptor, waits for it for ever.
func TestCallThatBlocks(t *testing.T) {
	for kind, flags := range map[string]int{
		"an eventfd":                       0,
		"a semaphore":                      unix.EFD_SEMAPHORE,
		"one that does not block any more": 0,
	} {
		for name, do := range map[string]func(g *guest) error{
			"SET_VRING_CALL": func(g *guest) error { return g.Client.SetVringCall(0, g.Queue(0).CallFD()) },
			"GET_VRING_BASE": func(g *guest) error { return firstOf(g.Queue(0).Stop()) },
			"the end":        func(g *guest) error { g.r.session.Close(); return nil },
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				r := plainRig(t, 1)
				g := r.connect(frontend.Options{Depth: 1, BufferBytes: 4096})
				fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|flags)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Close(fd) })
				if err := g.Client.SetVringCall(0, fd); err != nil {
					t.Fatal(err)
				}
				fullEventFD(t, fd)
				if err := unix.SetNonblock(fd, false); err != nil {
					t.Fatal(err)
				}
				send(g, driver.TypeIn, 0, 4096)
				// Answers are published before the worker calls.
				for done := make([]*frontend.Request, 1); ; runtime.Gosched() {
					if n, err := g.Queue(0).Poll(done); n > 0 || err != nil {
						break
					}
				}
				if kind == "one that does not block any more" {
					inWrite(t)
					if err := unix.SetNonblock(fd, true); err != nil {
						t.Fatal(err)
					}
				}
				if err := do(g); err != nil {
					t.Error(err)
				}
				_ = g.Abandon()
				if err := <-g.ended; err != nil {
					t.Error(err)
				}
				r.nextIsServed()
			})
		}
	}
}

// Nor does a ring that waits for what such a ring has in flight: here for a sync that
// flushes of both share.
func TestCallThatBlocksAnotherRing(t *testing.T) {
	r := plainRig(t, 2)
	gate := r.newGate()
	g := r.connect(frontend.Options{Queues: 2, Depth: 2, BufferBytes: 4096})
	fd := newEventFD(t)
	if err := g.Client.SetVringCall(0, fd); err != nil {
		t.Fatal(err)
	}
	fullEventFD(t, fd)
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	gate.shut.Store(true)
	send(g, driver.TypeFlush, 0, 0)
	gate.wait(1)
	send(g, driver.TypeGetID, 0, 20)
	for done := make([]*frontend.Request, 1); ; runtime.Gosched() { // it is answered, and the call has begun or will
		if n, err := g.Queue(0).Poll(done); n > 0 || err != nil {
			break
		}
	}
	q := g.Queue(1)
	flush := q.Get()
	flush.Type, flush.Sector = driver.TypeFlush, 0
	flush.SetLen(0)
	if err := errors.Join(q.Submit(flush), q.Kick()); err != nil {
		t.Fatal(err)
	}
	for kick := []unix.PollFd{{Fd: int32(q.KickFD()), Events: unix.POLLIN}}; ; runtime.Gosched() { // until it is heard
		if n, err := unix.Poll(kick, 0); n == 0 && err == nil {
			break
		}
	}
	gate.open()
	if _, err := q.Stop(); err != nil {
		t.Error(err)
	}
	_ = g.Abandon()
	if err := <-g.ended; err != nil {
		t.Error(err)
	}
	r.nextIsServed()
}
