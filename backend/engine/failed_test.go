package engine

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel refuses io_uring_enter, or io_getevents, with an error that nobody has
// foreseen: what it has not taken ends with EIO, Wait and Close come back, and Err
// says why.
func TestKernelRefusesToGoOn(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	u, err := NewUring(func() {})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(ready) }()
	// Its descriptor is something else from now on.
	if err := unix.Dup3(int(null.Fd()), u.ring.FD(), unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the one that finds out, and one behind it
		op := &Op{Code: Fdatasync, FD: int(f.Fd())}
		u.Queue(op)
		u.Submit()
		for u.Reap() != op {
			u.Wait([]unix.PollFd{{Fd: int32(ready), Events: unix.POLLIN}})
		}
		if !errors.Is(op.Err, unix.EIO) || u.Err() == nil {
			t.Fatalf("%v, %v", op.Err, u.Err())
		}
	}
	fds := []unix.PollFd{{Fd: int32(ready), Events: unix.POLLIN}}
	if u.Wait(fds); fds[0].Revents == 0 {
		t.Error("it does not say what is readable any more")
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}

	n, err := NewNative(func() {})
	if err != nil {
		t.Fatal(err)
	}
	ctx := n.ctx
	n.ctx = 1 // is nobody's
	n.getEvents(0)
	if n.Err() == nil {
		t.Error("io_getevents: no error")
	}
	op := &Op{Code: Writev, FD: int(f.Fd())}
	n.staged.push(op)
	if n.Submit(); n.Reap() != op || !errors.Is(op.Err, unix.EIO) {
		t.Errorf("%v", op.Err)
	}
	n.ctx = ctx
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}
