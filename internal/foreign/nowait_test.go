package foreign

import (
	"testing"

	"golang.org/x/sys/unix"
)

// notifierFD makes a blocking eventfd, closed at the end of the test.
func notifierFD(t *testing.T) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// blocking makes two ends of something whose O_NONBLOCK is not set.
func blocking(t *testing.T, kind string) (r, w int) {
	t.Helper()
	var fds [2]int
	var err error
	switch kind {
	case "eventfd":
		fds[0] = notifierFD(t)
		return fds[0], fds[0]
	case "pipe":
		err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
	default:
		fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(fds[0])
		_ = unix.Close(fds[1])
	})
	return fds[0], fds[1]
}

// A front-end that clears O_NONBLOCK does not get anybody stuck.
func TestNoWait(t *testing.T) {
	for _, kind := range []string{"eventfd", "pipe", "socket"} {
		r, w := blocking(t, kind)
		b := make([]byte, 4096)
		if n, err := ReadNoWait(r, b); err != unix.EAGAIN {
			t.Errorf("%s: with nothing there it reads %d bytes, %v", kind, n, err)
		}
		if kind == "eventfd" {
			continue
		}
		if _, err := unix.Write(w, b); err != nil {
			t.Fatal(err)
		}
		if n, err := ReadNoWait(r, b); n != len(b) || err != nil {
			t.Errorf("%s: %d bytes, %v", kind, n, err)
		}
	}
	// Of what can only be read by waiting nothing is read.
	inotify, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(inotify) }()
	if _, err := ReadNoWait(inotify, make([]byte, 8)); err != unix.EOPNOTSUPP {
		t.Errorf("inotify: %v", err)
	}
	fd := notifierFD(t)
	b := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	allocs := testing.AllocsPerRun(100, func() {
		_, _ = unix.Write(fd, b)
		_, _ = ReadNoWait(fd, b)
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
