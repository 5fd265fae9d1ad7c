package control

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// An instant without descriptors ends nothing: it is told of once, and who came
// meanwhile is served.
func TestAcceptWithoutDescriptors(t *testing.T) {
	heard := make(chan string, 8)
	r := newRig(t, func(s *Server) { s.note = func(line string) { heard <- line } })
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(fd) + 1, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: r.path})
	var line string
	if err == nil {
		line = <-heard
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err != nil || !strings.Contains(line, "lets nobody in at the moment") || !strings.Contains(line, "too many open files") {
		t.Fatalf("%v, note %q", err, line)
	}
	if _, err := Call(r.path, Request{Command: FaultList}); err != nil {
		t.Error(err)
	}
}
