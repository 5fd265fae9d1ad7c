package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/device"
	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/internal/testlog"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// asFrontEnd makes the test binary be a front-end in a process of its own.
const asFrontEnd = "DAEMON_TEST_AS_FRONT_END"

// playFrontEnd speaks over descriptor 3, or connects to a path and passes the connection
// on through descriptor 3, and ends.
func playFrontEnd(what string) error {
	if path, ok := strings.CutPrefix(what, "connect:"); ok {
		conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(conn, &unix.SockaddrUnix{Name: path})
		}
		if err == nil {
			err = unix.Sendmsg(3, []byte{1}, unix.UnixRights(conn), nil, 0)
		}
		return err
	}
	c, err := clientOf(3)
	if err == nil {
		_, err = c.Features()
	}
	return err
}

// clientOf makes a front-end of a connection, of which it has a duplicate.
func clientOf(fd int) (*frontend.Client, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "connection")
	defer func() { _ = f.Close() }()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return frontend.New(conn.(*net.UnixConn))
}

// frontEndProcess has a process do what with fd as its descriptor 3, and end.
func frontEndProcess(t *testing.T, what string, fd int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(dup), "three")
	defer func() { _ = f.Close() }()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asFrontEnd+"="+what)
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the front-end's process: %v\n%s", err, out)
	}
}

// dialFD connects to path; the connection is closed when the test ends.
func dialFD(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// A front-end whose process is dead gives way to one that comes, though something holds
// its connection open.
func TestDeadFrontEndGivesWay(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	held := dialFD(t, c.SocketPath)
	frontEndProcess(t, "speak", held)
	connect(t, c.SocketPath)
	if want := "is dead, and something holds its connection open: its session ends for front-end pid "; !strings.Contains(d.book.String(), want) {
		t.Errorf("no %q in\n%s", want, d.book)
	}
	if strings.Contains(d.book.String(), "refused") {
		t.Errorf("refused:\n%s", d.book)
	}
	d.end()
}

// The front-end is who speaks, not who has connected: management software may do that and
// pass the connection on.
func TestConnectionThatWasPassedOn(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	frontEndProcess(t, "connect:"+c.SocketPath, pair[1])
	oob := make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(cmsgs) != 1 {
		t.Fatal(cmsgs, err)
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil {
		t.Fatal(err)
	}
	first, err := clientOf(fds[0])
	_ = unix.Close(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	refused := func() {
		t.Helper()
		next, err := frontend.Dial(c.SocketPath)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = next.Close() }()
		if _, err := next.Features(); !errors.Is(err, frontend.ErrGone) {
			t.Errorf("the next front-end: %v", err)
		}
	}
	refused() // nobody has spoken, so nobody is known to be dead
	if _, err := first.Features(); err != nil {
		t.Fatal(err)
	}
	refused()
	if _, err := first.Features(); err != nil {
		t.Error(err)
	}
	d.end()
}

// Half a message with the session's own connection, and the front-end is gone: the next
// one is served.
func TestHalfMessageKeepsNobodyOut(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	fd := dialFD(t, c.SocketPath) // closed last: half a message ends a session by itself
	if err := unix.Sendmsg(fd, []byte{1, 0, 0, 0, 1, 0}, unix.UnixRights(fd), nil, 0); err != nil {
		t.Fatal(err)
	}
	d.book.Wait(1, ": connected")
	second, err := frontend.Dial(c.SocketPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	if _, err := second.Features(); err != nil {
		t.Errorf("%v\n%s", err, d.book)
	}
	d.end()
}

// A slowDevice has requests in flight until they are let go.
type slowDevice struct {
	*device.Device
	answered chan struct{} // closed once they are answered
}

func (d *slowDevice) StopQueue(i int, why string) uint32 {
	<-d.answered
	return d.Device.StopQueue(i, why)
}

// testDevice is a device over a new image. It is closed when the test ends.
func testDevice(t *testing.T) *device.Device {
	t.Helper()
	disk, err := backend.Open(testImage(t), disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log, _ := testlog.New()
	dev, err := device.New(disk, device.Options{Queues: 1, Log: log})
	if err != nil {
		t.Fatal(errors.Join(err, disk.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(dev.Close(), disk.Close()); err != nil {
			t.Error(err)
		}
	})
	return dev
}

// What a dead front-end has in flight is waited for, and so is it by the next one: it is
// refused for none that is gone.
func TestNextWaitsForWhatIsInFlight(t *testing.T) {
	dev := &slowDevice{Device: testDevice(t), answered: make(chan struct{})}
	path := filepath.Join(socketDir(t), "s")
	f, err := listen(endpoint{option: "--socket-path", path: path, mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	log, book := testlog.New()
	s := &server{dev: dev, log: log, handOver: time.Millisecond, lines: logging.NewLines(log)}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx, f) }()
	client, err := frontend.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	first, err := frontend.Open(client, frontend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Abandon(); err != nil {
		t.Fatal(err)
	}
	second, err := frontend.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	book.Wait(1, "is gone, and what it had in flight is finished first")
	close(dev.answered)
	if _, err := second.Features(); err != nil {
		t.Errorf("%v\n%s", err, book)
	}
	if strings.Contains(book.String(), "refused") {
		t.Errorf("refused:\n%s", book)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Newcomers wait side by side, and those that hang up keep nobody waiting.
func TestNewcomersWaitSideBySide(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	first := connect(t, c.SocketPath)
	for range 3 * maxNewcomers {
		next, err := frontend.Dial(c.SocketPath)
		if err != nil {
			t.Fatal(err)
		}
		_ = next.Close()
	}
	last, err := frontend.Dial(c.SocketPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = last.Close() }()
	_ = first.Close()
	if _, err := last.Features(); err != nil {
		t.Errorf("%v\n%s", err, d.book)
	}
	d.end()
}

// Whoever connects and leaves all the time does not fill the log.
func TestConnectionsDoNotFillTheLog(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	const n = 4 * logging.LineBurst
	for range n {
		if err := connect(t, c.SocketPath).Close(); err != nil {
			t.Fatal(err)
		}
	}
	d.end()
	text := d.book.String()
	if shown := strings.Count(text, ": connected"); shown >= n {
		t.Errorf("all %d are in the log", shown)
	}
	if want := "more lines like this were not shown: front-end pid " + fmt.Sprint(os.Getpid()) + ": "; !strings.Contains(text, want) {
		t.Errorf("no %q in\n%s", want, text)
	}
}

// A newcomer whose time is up while a message of the other front-end has begun is not
// refused: that session is about to wait for the next message, or to end. Run is not
// called, so the session stays as it is between two of its steps.
func TestNewcomerIsNotRefusedWithinAMessage(t *testing.T) {
	near, served := connected(t)
	far, newcomer := connected(t)
	t.Cleanup(func() { _ = errors.Join(near.Close(), far.Close(), served.Close(), newcomer.Close()) })
	if _, err := near.Write([]byte{1, 0}); err != nil { // half a message
		t.Fatal(err)
	}
	log, book := testlog.New()
	dev := testDevice(t)
	s := &server{dev: dev, log: log, lines: logging.NewLines(log)} // handOver 0: the time is up at once
	session := vhostuser.NewSession(served, dev, vhostuser.Options{})
	s.wait(newcomer)
	for range 3 {
		s.attend(session, "pid 1")
	}
	if len(s.waiting) != 1 || strings.Contains(book.String(), "refused") {
		t.Errorf("%d wait:\n%s", len(s.waiting), book)
	}
	if want := "a message of front-end pid 1 is not finished yet"; strings.Count(book.String(), want) != 1 {
		t.Errorf("not once %q in\n%s", want, book)
	}
	session.Close()
	s.attend(session, "pid 1")
	if want := "is gone, and what it had in flight is finished first"; strings.Count(book.String(), want) != 1 {
		t.Errorf("not once %q in\n%s", want, book)
	}
	if s.next() != newcomer {
		t.Error("it is not served next")
	}
}

// connected makes two ends of a connection.
func connected(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "connection")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}
