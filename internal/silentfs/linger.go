package silentfs

import (
	"fmt"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Lingering is a TCP socket whose last close waits for ten minutes: SO_LINGER is set, and
// its other end does not read what was sent. release ends that; it is called at the end of
// the test in any case.
func Lingering(t testing.TB) (fd int, release func()) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	release = func() { _ = far.Close() } // its unread data resets the connection
	t.Cleanup(release)
	for b := make([]byte, 1<<16); err == nil; {
		_, err = unix.SendmsgN(fd, b, nil, nil, unix.MSG_DONTWAIT)
	}
	if err != unix.EAGAIN {
		t.Fatal(err)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 600}); err != nil {
		t.Fatal(err)
	}
	return fd, release
}

// Link is what /proc says of a descriptor of this process.
func Link(fd int) string { return link(fmt.Sprint(fd)) }

func link(name string) string {
	what, _ := os.Readlink("/proc/self/fd/" + name)
	return what
}

// CloseAll closes all descriptors of this process that have a Link, and do not wait any
// more, and says how many there were.
func CloseAll(t testing.TB, what string) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil && link(e.Name()) == what {
			_ = unix.Close(fd)
			n++
		}
	}
	return n
}
