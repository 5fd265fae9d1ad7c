package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testlog"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// a daemon is a Run in the background.
type daemon struct {
	t    *testing.T
	book *testlog.Book
	stop context.CancelFunc
	done chan error
}

// startDaemon runs c until the test ends it, and waits until it listens.
func startDaemon(t *testing.T, c Config) *daemon {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	return startDaemonIn(t, ctx, stop, c)
}

func startDaemonIn(t *testing.T, ctx context.Context, stop func(), c Config) *daemon {
	t.Helper()
	log, book := testlog.New()
	d := &daemon{t: t, book: book, stop: stop, done: make(chan error, 1)}
	go func() { d.done <- Run(ctx, c, log) }()
	t.Cleanup(stop)
	book.Wait(1, "serving ")
	return d
}

// end stops the daemon, which must end without an error.
func (d *daemon) end() {
	d.t.Helper()
	d.stop()
	d.ended()
}

func (d *daemon) ended() {
	d.t.Helper()
	if err := <-d.done; err != nil {
		d.t.Fatalf("the daemon ended with: %v\n%s", err, d.book)
	}
}

// connect connects a front-end and has it say its first word.
func connect(t *testing.T, path string) *frontend.Client {
	t.Helper()
	c, err := frontend.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Features(); err != nil {
		t.Fatal(err)
	}
	return c
}

func socketConfig(t *testing.T) Config {
	t.Helper()
	c := goodConfig()
	c.BlkFile = testImage(t)
	c.SocketPath = filepath.Join(socketDir(t), "s")
	return c
}

// One front-end after the other, each as if it were the first.
func TestFrontEndsFollowEachOther(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	for range 3 {
		if err := connect(t, c.SocketPath).Close(); err != nil {
			t.Fatal(err)
		}
	}
	d.end()
	if _, err := os.Lstat(c.SocketPath); err == nil {
		t.Error("the socket is still there")
	}
	for words, n := range map[string]int{": connected": 3, ": left": 3} {
		if got := strings.Count(d.book.String(), words); got != n {
			t.Errorf("%d lines with %q, want %d:\n%s", got, words, n, d.book)
		}
	}
}

// A second front-end waits for the first, which may just be on its way out.
func TestSecondFrontEndWaits(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	first := connect(t, c.SocketPath)
	second, err := frontend.Dial(c.SocketPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Features(); err != nil {
		t.Fatalf("the second front-end, after the first left: %v\n%s", err, d.book)
	}
	d.end()
}

// When the first does not leave, the second is told so by a closed connection,
// and the first notices nothing.
func TestSecondFrontEndIsRefused(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	first := connect(t, c.SocketPath)
	second, err := frontend.Dial(c.SocketPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	if _, err := second.Features(); !errors.Is(err, frontend.ErrGone) {
		t.Errorf("the second front-end: %v, want %v", err, frontend.ErrGone)
	}
	if _, err := first.Features(); err != nil {
		t.Errorf("the first front-end: %v", err)
	}
	if want := "refused, front-end pid "; !strings.Contains(d.book.String(), want) {
		t.Errorf("no %q in\n%s", want, d.book)
	}
	_ = first.Close()
	d.book.Wait(1, ": left")
	connect(t, c.SocketPath) // and the next is welcome again
	d.end()
}

// The end of the daemon ends the session, however many wait.
func TestEndDuringASession(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	first := connect(t, c.SocketPath)
	var waiting []*frontend.Client
	for range 3 {
		next, err := frontend.Dial(c.SocketPath)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = next.Close() }()
		waiting = append(waiting, next)
	}
	d.end()
	for i, f := range append(waiting, first) {
		if _, err := f.Features(); !errors.Is(err, frontend.ErrGone) {
			t.Errorf("front-end %d: %v, want %v", i, err, frontend.ErrGone)
		}
	}
}

// Nonsense costs a front-end its session, and the next is served.
func TestNonsenseEndsTheSessionOnly(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	bad := connect(t, c.SocketPath)
	if err := bad.SendRaw([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Receive(); !errors.Is(err, frontend.ErrGone) {
		t.Errorf("instead of the end: %v", err)
	}
	connect(t, c.SocketPath)
	if want := "<4>front-end pid "; !strings.Contains(d.book.String(), want) || !strings.Contains(d.book.String(), "session ended: ") {
		t.Errorf("no warning in\n%s", d.book)
	}
	d.end()
}

// A connected socket is served until its front-end leaves, and then it is over.
func TestConnectedSocket(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near := os.NewFile(uintptr(pair[0]), "near")
	conn, err := net.FileConn(near)
	_ = near.Close()
	if err != nil {
		t.Fatal(err)
	}
	f, err := frontend.New(conn.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	c := goodConfig()
	c.BlkFile, c.SocketPath, c.FD = testImage(t), "", pair[1]
	d := startDaemon(t, c)
	if _, err := f.Features(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	d.ended()
}

// Each message in words, when that is asked for.
func TestTrace(t *testing.T) {
	c := socketConfig(t)
	c.Trace = true
	d := startDaemon(t, c)
	connect(t, c.SocketPath)
	d.end()
	for _, want := range []string{"<7>front-end pid ", ": GET_FEATURES", "answer: GET_FEATURES"} {
		if !strings.Contains(d.book.String(), want) {
			t.Errorf("no %q in\n%s", want, d.book)
		}
	}
}

// What does not work out leaves nothing behind: no socket, no lock.
func TestRunRefuses(t *testing.T) {
	good := socketConfig(t)
	d := startDaemon(t, good)
	for _, tt := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"no image", "no such file", func(c *Config) { c.BlkFile = "none" }},
		{"an image that is in use", "in use by process", func(c *Config) { c.SocketPath = "other" }},
		{"a socket that is in use", "another process listens", func(c *Config) { c.BlkFile = testImage(t) }},
		{"a folder", "neither a file nor a block device", func(c *Config) { c.BlkFile, c.SocketPath = ".", "other" }},
	} {
		c := good
		tt.change(&c)
		log, _ := testlog.New()
		if err := Run(t.Context(), c, log); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if _, err := os.Lstat("other"); err == nil {
			t.Errorf("%s: a socket was left behind", tt.name)
		}
	}
	connect(t, good.SocketPath) // undisturbed
	d.end()
}

// The service manager hears when the daemon is ready, what it does, and when it
// ends, in this order.
func TestNotify(t *testing.T) {
	c := socketConfig(t)
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", "notify")
	next := func(want ...string) {
		t.Helper()
		buf := make([]byte, 4096)
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(buf[:n]), w) {
				t.Errorf("the service manager was told %q, want %q", buf[:n], w)
			}
		}
	}
	d := startDaemon(t, c)
	next("READY=1", "STATUS=waiting for a front-end on ")
	f := connect(t, c.SocketPath)
	next("STATUS=serving front-end pid ")
	_ = f.Close()
	next("STATUS=waiting for a front-end on ")
	d.end()
	next("STOPPING=1")

	// Also when it is stopped and sees that before what was to follow from it.
	ctx, stop := context.WithCancel(t.Context())
	d = startDaemonIn(t, lateContext{ctx}, stop, c)
	next("READY=1")
	d.end()
	next("STOPPING=1")
}

// A lateContext is done, and nothing has followed from it yet.
type lateContext struct{ context.Context }

func (lateContext) AfterFunc(func()) func() bool { return func() bool { return true } }

func (lateContext) Value(any) any { return nil } // else package context looks behind it

// The end of the accept loop may be seen before the end of the context that it follows
// from, as here, where the latter is never seen: it is waited for once.
func TestEndSeenByTheAcceptLoopFirst(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	d := startDaemonIn(t, unseenEnd{ctx}, stop, socketConfig(t))
	d.end()
}

// An unseenEnd never says by its channel that it has ended.
type unseenEnd struct{ context.Context }

func (unseenEnd) Done() <-chan struct{} { return never }

var never = make(chan struct{})

func (c unseenEnd) AfterFunc(f func()) func() bool { return context.AfterFunc(c.Context, f) }

// A service manager that does not listen is no reason to stop serving.
func TestNotifyFails(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	c := socketConfig(t)
	d := startDaemon(t, c)
	d.book.Wait(1, `notifying the service manager of "READY=1"`)
	connect(t, c.SocketPath)
	d.end()
}

// The time that a newcomer waits is long enough for a drain, and short enough
// not to look like a hang.
func TestHandOver(t *testing.T) {
	if handOver < time.Second || handOver > 10*time.Second {
		t.Errorf("a newcomer waits %v", handOver)
	}
}

// An instant without descriptors does not end the daemon: a front-end that comes then
// waits.
func TestAcceptWithoutDescriptors(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "socket")
	defer func() { _ = socket.Close() }()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	limit := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Fatal(err)
		}
	}
	limit(unix.Rlimit{Cur: uint64(fd) + 1, Max: was.Max})
	defer limit(was)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: c.SocketPath}); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(d.book.String(), "no front-end is let in at the moment: too many open files") {
		select {
		case err := <-d.done:
			t.Fatalf("the daemon has ended: %v", err)
		case <-d.book.Grew:
		}
	}
	limit(was)
	conn, err := net.FileConn(socket)
	if err != nil {
		t.Fatal(err)
	}
	f, err := frontend.New(conn.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Features(); err != nil {
		t.Error(err)
	}
	d.end()
}
