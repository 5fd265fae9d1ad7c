package foreign

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/silentfs"
	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) {
	if how := os.Getenv(asKept); how != "" {
		os.Exit(kept(how))
	}
	testleak.Main(m)
}

// eventually waits until it is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// settled waits until so many are left, and none is being closed.
func settled(t *testing.T, n int) {
	t.Helper()
	eventually(t, "nothing is being closed, and the rest is left", func() bool {
		all, closing := Left()
		return all == n && closing == 0
	})
}

// forget is for descriptors that the test closes itself.
func forget() {
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	reaper.stuck = 0
}

func must(t *testing.T, fd int, err error) int {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func open(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	return must(t, fd, err)
}

func isOpen(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	anon := func(n uintptr, args ...uintptr) int {
		var a [4]uintptr
		copy(a[:], args)
		fd, _, errno := unix.Syscall6(n, a[0], a[1], a[2], a[3], 0, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		return int(fd)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := func(domain, typ int) int {
		fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
		return must(t, fd, err)
	}
	memfd := func(flags int) int {
		fd, err := unix.MemfdCreate("anon_inode:[eventfd]", unix.MFD_CLOEXEC|flags)
		return must(t, fd, err)
	}
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	inotify, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	eventfd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_SEMAPHORE)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		fd   int
		want Kind
		part string
	}{
		{eventfd, Eventfd, "an eventfd"},
		{epoll, Other, `anonymous inode "[eventpoll]"`},
		{inotify, Other, `anonymous inode "inotify"`},
		{anon(unix.SYS_TIMERFD_CREATE, unix.CLOCK_MONOTONIC, unix.O_CLOEXEC), Other, `anonymous inode "[timerfd]"`},
		{anon(unix.SYS_PIDFD_OPEN, uintptr(os.Getpid())), Other, "pidfd"},
		{pipe[0], Pipe, "a pipe"},
		{pipe[1], Pipe, "a pipe"},
		{pair[0], UnixStream, "a UNIX stream socket"},
		{pair[1], UnixStream, "a UNIX stream socket"},
		{socket(unix.AF_UNIX, unix.SOCK_DGRAM), Other, "no stream"},
		{socket(unix.AF_INET, unix.SOCK_STREAM), Other, "address family 2"},
		{memfd(0), Memory, ""},
		{open(t, "/dev/shm/", unix.O_TMPFILE|unix.O_RDWR), Memory, ""},
		{open(t, dir+"/file", unix.O_CREAT|unix.O_RDWR), Memory, ""},
		{open(t, dir+"/file", unix.O_RDONLY), Memory, ""},
		{open(t, dir+"/fifo", unix.O_RDWR), Other, "a named pipe"},
		{open(t, dir, unix.O_RDONLY), Other, "a directory"},
		{open(t, os.DevNull, unix.O_RDWR), Other, "a character device"},
		{open(t, "/proc/self/stat", unix.O_RDONLY), Stuck, "proc"},
		{open(t, "/proc/self/ns/net", unix.O_RDONLY), Other, "net:["},
		{-1, Stuck, "not known"},
	} {
		kind, what := Inspect(tt.fd)
		if kind != tt.want || !strings.Contains(what, tt.part) {
			t.Errorf("descriptor %d: kind %d, %s; want %d, with %q in it", tt.fd, kind, what, tt.want, tt.part)
		}
		if tt.fd >= 0 {
			_ = unix.Close(tt.fd)
		}
	}
	fd, release := silentfs.Lingering(t)
	if kind, what := Inspect(fd); kind != Stuck || !strings.Contains(what, "lingers") {
		t.Errorf("kind %d, %s", kind, what)
	}
	release()
	_ = unix.Close(fd)
}

// A file system that keeps silent is not waited for.
func TestInspectSilent(t *testing.T) {
	f := silentfs.Mount(t)
	fd := f.Open(t)
	if kind, what := Inspect(fd); kind != Stuck || !strings.Contains(what, "fuse.silentfs") {
		t.Errorf("kind %d, %s", kind, what)
	}
	f.Silence()
	if kind, what := Inspect(fd); kind != Stuck || !strings.Contains(what, "fuse.silentfs") {
		t.Errorf("kind %d, %s", kind, what)
	}
	Close(fd)
	CloseKind(fd, Stuck)
	settled(t, 2)
	if n := f.Waiting(); n != 0 {
		t.Errorf("it was asked %d times", n)
	}
	f.Unmount()
	if !isOpen(fd) {
		t.Error("it was closed")
	}
	_ = unix.Close(fd)
	forget()
}

// What can be closed is, on another thread; what lingers is left alone.
func TestClose(t *testing.T) {
	linger, release := silentfs.Lingering(t)
	Close(linger)
	settled(t, 1)
	if !isOpen(linger) {
		t.Error("it was closed")
	}
	forget()
	release()
	_ = unix.Close(linger)

	for range 2 * maxThreads {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		Close(p[0])
		Close(p[1])
	}
	settled(t, 0)
}

// A connection that holds what lingers in its queue is hung up on without a wait, and the
// other end notices.
func TestHangUp(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "near")
	near, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	fd, release := silentfs.Lingering(t)
	if err := unix.Sendmsg(fds[1], []byte("x"), unix.UnixRights(fd), nil, 0); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd) // the one in the queue is the last one
	if err := HangUp(near.(*net.UnixConn), true); err != nil {
		t.Error(err)
	}
	b := make([]byte, 1)
	if n, err := unix.Read(fds[1], b); n > 0 || err != nil && err != unix.ECONNRESET {
		t.Errorf("the other end reads %d bytes, %v", n, err)
	}
	if all, _ := Left(); all == 0 {
		t.Error("it was closed, as if nothing lingered")
	}
	release()
	_ = unix.Close(fds[1])
	settled(t, 0)
	if err := HangUp(near.(*net.UnixConn), true); err == nil {
		t.Error("it was closed twice")
	}
}
