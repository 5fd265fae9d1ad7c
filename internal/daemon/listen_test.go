package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testlog"
	"github.com/zvhost/zvhost/vhostuser/handover"
)

// listenAt opens a front at path, closed at the end of the test.
func listenAt(t *testing.T, c Config) *front {
	t.Helper()
	f, err := openFront(&c, new(passedOn), logrus.New())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.close() })
	return f
}

// leaveStale leaves a socket file behind that nobody has bound any more, as a
// killed daemon does.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	c := goodConfig()
	c.SocketPath = filepath.Join(socketDir(t), "s")
	leaveStale(t, c.SocketPath)
	leaveStale(t, c.SocketPath+nameSuffix)
	listenAt(t, c)
	if left, err := filepath.Glob("*"); err != nil || len(left) != 1 {
		t.Errorf("beside the socket there are %q, %v", left, err)
	}
	conn, err := net.Dial("unix", c.SocketPath)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestListenRefuses(t *testing.T) {
	dir := socketDir(t)
	live := filepath.Join(dir, "live")
	listenAt(t, Config{SocketPath: live, FD: NoFD, SocketMode: 0o600})
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	bound := filepath.Join(dir, "bound") // by a process that does not listen yet
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: bound}); err != nil {
		t.Fatal(err)
	}
	packets := filepath.Join(dir, "packets") // what somebody else has there
	other, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: packets, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()

	for _, tt := range []struct{ path, want string }{
		{live, "another process listens there"},
		{bound, "another process listens there"},
		{packets, "another process listens there"},
		{file, "is a file, not a socket: give another path"},
		{dir, "is a directory, not a socket: give another path"},
		{filepath.Join(dir, "none", "s"), "the socket's directory"},
		{"", "nowhere to listen"},
	} {
		c := goodConfig()
		c.SocketPath = tt.path
		f, err := openFront(&c, new(passedOn), logrus.New())
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("listening on %q: %v, want %q", tt.path, err, tt.want)
		}
		if err == nil {
			_ = f.close()
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	// The check has not disturbed the live one.
	conn, err := net.Dial("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestSocketModeAndGroup(t *testing.T) {
	dir := socketDir(t)
	for _, mode := range []fs.FileMode{0o600, 0o660, 0o666} {
		c := goodConfig()
		c.SocketPath, c.SocketMode = filepath.Join(dir, "s"), mode
		c.SocketGroup = strconv.Itoa(os.Getegid())
		f := listenAt(t, c)
		st, err := os.Lstat(c.SocketPath)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != mode {
			t.Errorf("the socket has mode %#o, want %#o", st.Mode().Perm(), mode)
		}
		if err := f.close(); err != nil {
			t.Error(err)
		}
	}
	c := goodConfig()
	c.SocketPath, c.SocketGroup = filepath.Join(dir, "s"), "no-such-group"
	if _, err := openFront(&c, new(passedOn), logrus.New()); err == nil || !strings.Contains(err.Error(), "--socket-group=no-such-group") {
		t.Errorf("a group that does not exist: %v", err)
	}
	if left, err := filepath.Glob("*"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// The socket of the process before gets the permissions that this one was told; it is gone
// on with where that fails, and the log says so.
func TestKeptSocketModeAndGroup(t *testing.T) {
	c := goodConfig()
	c.SocketPath, c.SocketMode = filepath.Join(socketDir(t), "s"), 0o660
	first := listenAt(t, c)
	log, book := testlog.New()
	for _, tt := range []struct {
		mode         fs.FileMode
		group, wrong string
	}{
		{0o600, "", ""}, {0o666, strconv.Itoa(os.Getegid()), ""}, {0o600, "no-such-group", "--socket-group=no-such-group"},
	} {
		file, err := first.listener.File()
		if err != nil {
			t.Fatal(err)
		}
		fd, err := takeFD(file)
		if err != nil {
			t.Fatal(err)
		}
		c.SocketMode, c.SocketGroup = tt.mode, tt.group
		f, err := openFront(&c, &passedOn{stored: handover.Stored{listenerName: fd}}, log)
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Lstat(c.SocketPath)
		if err != nil {
			t.Fatal(err)
		}
		if !f.before || st.Mode().Perm() != tt.mode {
			t.Errorf("the socket, of the previous process: %v, has mode %#o, want %#o", f.before, st.Mode().Perm(), tt.mode)
		}
		if text := book.String(); !strings.Contains(text, tt.wrong) || tt.wrong == "" && text != "" {
			t.Errorf("the log: %q, want %q", text, tt.wrong)
		}
		if err := f.leaveListening(); err != nil {
			t.Error(err)
		}
	}
}

// Whoever sees the file can connect: there is no moment between.
func TestSocketAppearsReady(t *testing.T) {
	c := goodConfig()
	c.SocketPath = filepath.Join(socketDir(t), "s")
	for range 50 {
		connected := make(chan error)
		go func() {
			for {
				conn, err := net.Dial("unix", c.SocketPath)
				if err == nil {
					err = conn.Close()
				} else if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				connected <- err
				return
			}
		}()
		f := listenAt(t, c)
		if err := <-connected; err != nil {
			t.Fatal(err)
		}
		if err := f.close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What is removed at the end is what was made at the start, not what somebody
// else has put there since.
func TestCloseRemovesItsOwnSocketOnly(t *testing.T) {
	c := goodConfig()
	c.SocketPath = filepath.Join(socketDir(t), "s")
	f := listenAt(t, c)
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(c.SocketPath); err == nil {
		t.Error("the socket is still there")
	}
	f = listenAt(t, c)
	if err := os.Rename(c.SocketPath, "elsewhere"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.SocketPath, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(c.SocketPath); err != nil {
		t.Errorf("somebody else's file is gone: %v", err)
	}
}

func TestInherited(t *testing.T) {
	dir := socketDir(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pair[1]) }()
	packets, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	inet, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	listening, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		file *os.File
		want string
	}{
		{"a listening socket", listening, "listens"},
		{"a connected socket", os.NewFile(uintptr(pair[0]), "pair"), "connected"},
		{"datagrams", os.NewFile(uintptr(packets), "packets"), "not a UNIX stream socket"},
		{"TCP", os.NewFile(uintptr(inet), "inet"), "not a UNIX stream socket"},
		{"a file", file, "not an open socket"},
		{"nothing", os.NewFile(1<<20, "none"), "not an open socket: bad file descriptor"},
	} {
		f, err := inherited(tt.file, "--fd=7")
		switch {
		case err != nil:
			if !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "--fd=7: ") {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
			}
			continue
		case f.listener != nil && tt.want != "listens", f.conn != nil && tt.want != "connected":
			t.Errorf("%s: listener %v, connection %v", tt.name, f.listener, f.conn)
		}
		if err := f.close(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// An inherited socket is not ours to remove.
	if _, err := os.Lstat("s"); err != nil {
		t.Error(err)
	}
}

// A socket unit and a service that name different paths are a mistake that would
// otherwise show as a virtual machine that hangs.
func TestActivationPathMustAgree(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := os.Symlink(".", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ asked, want string }{
		{path, ""}, {"", ""}, {filepath.Join(dir, "link", "s"), ""},
		{filepath.Join(dir, "other"), "make the socket unit and the service agree"},
	} {
		file, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		f, err := fromActivation(file, endpoint{option: "--socket-path", path: tt.asked})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("--socket-path=%q: %v, want %q", tt.asked, err, tt.want)
		}
		if err == nil {
			_ = f.close()
		}
	}
}

// Whoever can read the socket's directory can lock it, for as long as they like: a daemon
// that starts says who does, instead of waiting for ever.
func TestLockedDirectory(t *testing.T) {
	dir, err := os.Open(socketDir(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	_, err = lockDir(".", "--socket-path", 50*time.Millisecond)
	if want := fmt.Sprintf("the socket's directory . has been locked (flock) for 50ms by process %d (", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	// One that lets go in time is waited for.
	fd, unlocked := int(dir.Fd()), make(chan error)
	go func() { unlocked <- unix.Flock(fd, unix.LOCK_UN) }()
	unlock, err := lockDir(".", "--socket-path", time.Hour)
	if err := <-unlocked; err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
