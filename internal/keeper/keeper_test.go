package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/silentfs"
	"github.com/zvhost/zvhost/internal/testleak"
)

// asChild makes the test binary the last step of a child, and then the child.
const (
	asChild = "KEEPER_TEST_AS_CHILD"
	// finishFile is where a child that finishes something looks for its end.
	finishFile = "KEEPER_TEST_FINISH"
)

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		if len(os.Args) > 2 && os.Args[1] == "step" {
			fmt.Fprintln(os.Stderr, Exec(os.Args[2:]))
			os.Exit(99)
		}
		os.Exit(child(os.Args[1], os.Args[2]))
	}
	testleak.Main(m)
}

// child is a program that counts in a file how often it was started.
func child(what, file string) int {
	text, _ := os.ReadFile(file)
	n := len(text) + 1
	if err := os.WriteFile(file, []byte(strings.Repeat("x", n)), 0o600); err != nil {
		return 98
	}
	say := func(text string, fds ...int) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")})
		}
		if err == nil {
			err = unix.Sendmsg(fd, []byte(text), unix.UnixRights(fds...), nil, 0)
		}
		if err != nil {
			panic(err)
		}
	}
	switch what {
	case "fails":
		return 7
	case "wrong":
		return 2
	case "panics":
		// Go's status for it is that of a wrong command line. The second time it does not
		// even come to serve.
		if n == 3 {
			return 0
		}
		if n == 1 {
			say("READY=1")
		}
		panic("on purpose")
	case "stores":
		// Each start finds what those before have stored, and adds a byte to a pipe.
		if n > 1 && (os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" || os.Getenv("LISTEN_FDNAMES") != "one") {
			return 97
		}
		if n == 1 {
			var p [2]int
			if err := unix.Pipe(p[:]); err != nil {
				return 96
			}
			if _, err := unix.Write(p[1], []byte("kept")); err != nil {
				return 95
			}
			say("FDSTORE=1\nFDPOLL=0\nFDNAME=one", p[0])
			say("FDSTORE=1\nFDNAME=two", p[1])
			say("FDSTOREREMOVE=1\nFDNAME=two")
		}
		if n < 3 {
			say("READY=1")
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		b := make([]byte, 9)
		got, err := unix.Read(listenFDs, b)
		if err != nil || string(b[:got]) != "kept" {
			return 94
		}
		// Nobody has the other end any more.
		if got, err := unix.Read(listenFDs, b); got != 0 || err != nil {
			return 93
		}
		say("FDSTOREREMOVE=1\nFDNAME=one")
		return 0
	case "leaves":
		// It ends well, and something is to be gone on with, but for the last time.
		if n == 3 {
			say("FDSTOREREMOVE=1\nFDNAME=stdin")
			return 0
		}
		if n == 1 {
			say("READY=1\nFDSTORE=1\nFDNAME=stdin", 0)
		}
		return 0
	case "finishes":
		// It ends once the test lets it, whatever it is sent meanwhile.
		c := make(chan os.Signal, 1)
		notifySignals(c)
		say("READY=1\nSTATUS=waiting")
		<-c
		for {
			if _, err := os.Stat(os.Getenv(finishFile)); err == nil {
				return 5
			}
			time.Sleep(time.Millisecond)
		}
	case "kicked":
		fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
		if err != nil {
			return 91
		}
		say("FDSTORE=1\nFDPOLL=0\nFDNAME=kick", fd)
		fallthrough
	case "waits":
		c := make(chan os.Signal, 1)
		notifySignals(c)
		say("READY=1\nSTATUS=waiting")
		switch <-c {
		case unix.SIGTERM: // start anew
			return 0
		default:
			return 5
		}
	}
	return 92
}

// manager is a service manager above the keeper: the socket that it listens on.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: t.TempDir() + "/n", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", c.LocalAddr().String())
	return c
}

// served waits until the child has said STATUS and READY.
func served(above *net.UnixConn) {
	b := make([]byte, 100)
	for range 2 {
		_, _ = above.Read(b)
	}
}

// A keeper that holds the guest's eventfds does not look at them: it would wake up
// with each of the guest's requests.
func TestKeptIsNotPolled(t *testing.T) {
	above := manager(t)
	signals := make(chan os.Signal)
	go func() {
		served(above)
		eventfds := 0
		fds, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range fds {
			is, _ := os.Readlink(fd)
			info, _ := os.ReadFile("/proc/self/fdinfo/" + filepath.Base(fd))
			if is == "anon_inode:[eventpoll]" {
				for line := range strings.Lines(string(info)) {
					if f := strings.Fields(line); len(f) > 1 && f[0] == "tfd:" {
						if what, _ := os.Readlink("/proc/self/fd/" + f[1]); what == "anon_inode:[eventfd]" {
							eventfds++
						}
					}
				}
			}
		}
		if eventfds > 1 { // one is the runtime's own
			t.Errorf("%d eventfds are polled for", eventfds)
		}
		signals <- unix.SIGTERM
	}()
	if status, starts, log := run(t, signals, "kicked"); status != 5 || starts != 1 {
		t.Errorf("status %d after %d starts:\n%s", status, starts, log)
	}
}

// Who has not inherited the notification socket from the keeper does not find it, and what
// is not the child's is dropped, and said once. A descriptor that he sends does not stop
// the keeper, even if closing it would take long.
func TestStranger(t *testing.T) {
	above := manager(t)
	signals := make(chan os.Signal)
	linger, release := silentfs.Lingering(t)
	go func() {
		served(above)
		sockets, _ := os.ReadFile("/proc/net/unix")
		if strings.Contains(string(sockets), fmt.Sprintf("@zvhost-keeper-%d-", os.Getpid())) {
			t.Error("the socket has a name that anybody can connect to")
		}
		// This process is the keeper's, so it can.
		files, _ := filepath.Glob("/proc/self/fd/*")
		sent := false
		for _, name := range files {
			if what, _ := os.Readlink(name); !strings.Contains(what, "/zvhost-keeper-") {
				continue
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			for range 20 {
				if err == nil {
					err = unix.Sendmsg(fd, []byte("FDSTORE=1\nFDNAME=mine\nREADY=1\nSTATUS=bad"), unix.UnixRights(linger), &unix.SockaddrUnix{Name: name}, 0)
				}
			}
			if err = errors.Join(err, unix.Close(fd)); err != nil {
				t.Error(err)
			}
			sent = true
		}
		if !sent {
			t.Error("no socket was found")
		}
		signals <- unix.SIGHUP
		b := make([]byte, 100)
		for _, want := range []string{"STATUS=waiting", "READY=1"} {
			if n, err := above.Read(b); err != nil || string(b[:n]) != want {
				t.Errorf("heard %q, %v", b[:n], err)
			}
		}
		signals <- unix.SIGTERM
	}()
	status, starts, log := run(t, signals, "waits")
	if status != 5 || starts != 2 || strings.Count(log, "is not the child") != 1 {
		t.Errorf("status %d after %d starts:\n%s", status, starts, log)
	}
	// Those that linger are left open until the keeper ends.
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if all, closing := foreign.Left(); all >= 20 && closing == 0 {
			break
		}
	}
	release()
	if n := silentfs.CloseAll(t, silentfs.Link(linger)); n != 21 {
		t.Errorf("%d descriptors, not 20 and ours", n)
	}
}

// What keeps a child from being started, once it has served, may go away: the guest's
// descriptors are not given up for it.
func TestStartIsTriedAgain(t *testing.T) {
	above := manager(t)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	limit := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Error(err)
		}
	}
	defer limit(was)
	signals := make(chan os.Signal)
	go func() {
		b := make([]byte, 100)
		for i, sig := range []os.Signal{unix.SIGHUP, unix.SIGTERM} {
			for range 2 { // STATUS and READY
				_, _ = above.Read(b)
			}
			if i == 0 {
				limit(unix.Rlimit{Cur: 3, Max: was.Max})
			}
			signals <- sig
		}
	}()
	t.Setenv(asChild, "1")
	status, err := Run(Options{
		Args: []string{os.Args[0], "kicked", t.TempDir() + "/starts"}, Self: []string{"step"}, Signals: signals,
		Log: func(format string, args ...any) {
			if strings.Contains(format, "cannot be started") {
				limit(was)
			}
		},
	})
	if status != 5 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
}

// run runs the child until it ends.
func run(t *testing.T, signals chan os.Signal, what string) (status int, starts int, log string) {
	t.Helper()
	t.Setenv(asChild, "1")
	file := t.TempDir() + "/starts"
	var mu sync.Mutex
	var b strings.Builder
	status, err := Run(Options{
		Args: []string{os.Args[0], what, file}, Self: []string{"step"}, Signals: signals,
		Log: func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(&b, format+"\n", args...)
		},
	})
	if err != nil {
		t.Error(err)
	}
	text, _ := os.ReadFile(file)
	return status, len(text), b.String()
}

// A child that dies is started again, with what it had stored, and nothing else.
func TestStoredDescriptorsComeBack(t *testing.T) {
	if status, starts, log := run(t, nil, "stores"); status != 0 || starts != 3 {
		t.Errorf("status %d after %d starts:\n%s", status, starts, log)
	}
}

// One that ends well and has left something in the store is to be followed by another.
func TestChildThatLeavesSomething(t *testing.T) {
	if status, starts, log := run(t, nil, "leaves"); status != 0 || starts != 3 {
		t.Errorf("status %d after %d starts:\n%s", status, starts, log)
	}
}

// A command line that is wrong is not tried for ever.
func TestChildThatFails(t *testing.T) {
	for what, want := range map[string]int{"fails": 7, "wrong": 2} {
		if status, starts, log := run(t, nil, what); status != want || starts != 1 {
			t.Errorf("%s: status %d after %d starts:\n%s", what, status, starts, log)
		}
	}
	signals := make(chan os.Signal)
	status, err := Run(Options{Args: []string{"/no/such/program"}, Self: []string{"step"}, Signals: signals, Log: t.Logf})
	if err != nil || status == 0 {
		t.Errorf("status %d, %v", status, err)
	}
}

// A child that has served once is started again however it ends: its guest waits.
func TestChildThatPanics(t *testing.T) {
	if status, starts, log := run(t, nil, "panics"); status != 0 || starts != 3 {
		t.Errorf("status %d after %d starts:\n%s", status, starts, log)
	}
}

// SIGHUP starts the child anew, SIGTERM ends both; the service manager above hears
// what the child says.
func TestSignals(t *testing.T) {
	above := manager(t)
	signals := make(chan os.Signal)
	go func() {
		hear := func(want string) {
			b := make([]byte, 100)
			_ = above.SetReadDeadline(time.Now().Add(time.Minute))
			n, err := above.Read(b)
			if err != nil && err != io.EOF || string(b[:n]) != want {
				t.Errorf("heard %q, %v, want %q", b[:max(n, 0)], err, want)
			}
		}
		for _, sig := range []os.Signal{unix.SIGHUP, unix.SIGHUP, unix.SIGTERM} {
			hear("STATUS=waiting")
			hear("READY=1")
			signals <- sig
		}
	}()
	if status, starts, log := run(t, signals, "waits"); status != 5 || starts != 3 {
		t.Errorf("status %d after %d starts:\n%s", status, starts, log)
	}
}

// timeout(1) sends SIGTERM twice, to the keeper and to its group: that is one request, and
// what the child has in flight is finished.
func TestSignalsThatComeTogetherAreOne(t *testing.T) {
	defer func(was time.Duration) { secondSignal = was }(secondSignal)
	secondSignal = time.Hour // however slow this machine is
	above := manager(t)
	finish := t.TempDir() + "/finish"
	t.Setenv(finishFile, finish)
	signals := make(chan os.Signal)
	go func() {
		served(above)
		signals <- unix.SIGTERM
		signals <- unix.SIGTERM
		if err := os.WriteFile(finish, nil, 0o600); err != nil {
			t.Error(err)
		}
	}()
	if status, starts, log := run(t, signals, "finishes"); status != 5 || starts != 1 || !strings.Contains(log, "taken for the same request") {
		t.Errorf("status %d after %d starts:\n%s", status, starts, log)
	}
}
