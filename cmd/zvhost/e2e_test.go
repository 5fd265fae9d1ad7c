package main

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// program is zvhost in a process of its own.
type program struct {
	t   *testing.T
	cmd *exec.Cmd

	mu    sync.Mutex
	log   bytes.Buffer
	lines chan struct{} // an entry for each line of the log
	read  chan struct{} // closed at its end
}

// start starts zvhost through command, "" for itself, with files as descriptors
// 3 and up and env besides the environment. It is killed at the end of the test
// if it still runs.
func start(t *testing.T, command string, files []*os.File, env []string, args ...string) *program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	if command != "" {
		cmd = exec.Command("sh", append([]string{"-c", command, self}, args...)...)
	}
	cmd.ExtraFiles = files
	return launch(t, cmd, env)
}

// launch starts cmd, in which zvhost runs sooner or later.
func launch(t *testing.T, cmd *exec.Cmd, env []string) *program {
	t.Helper()
	p := &program{t: t, cmd: cmd, lines: make(chan struct{}, 1000), read: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), asProgram+"=1",
		"GORACE=atexit_sleep_ms=0"), env...) // the race detector makes each exit last a second
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.read)
		for r := bufio.NewScanner(stderr); r.Scan(); {
			p.mu.Lock()
			p.log.WriteString(r.Text() + "\n")
			p.mu.Unlock()
			p.lines <- struct{}{}
		}
	}()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			p.wait()
		}
	})
	return p
}

func (p *program) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// until waits for a line of the log with words in it.
func (p *program) until(words string) {
	p.t.Helper()
	p.times(1, words)
}

// patience is how long another process may take for what a test waits for, on a machine
// that is busy.
const patience = 5 * time.Minute

// times waits until the log has words so often.
func (p *program) times(n int, words string) {
	p.t.Helper()
	late := time.After(patience)
	for strings.Count(p.logged(), words) < n {
		select {
		case <-p.lines:
		case <-p.read: // all is logged by now
			if strings.Count(p.logged(), words) >= n {
				return
			}
			p.t.Fatalf("it ended without saying %q %d times:\n%s", words, n, p.logged())
		case <-late:
			p.t.Fatalf("waited %v in vain for %q, %d times:\n%s", patience, words, n, p.logged())
		}
	}
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wait returns the exit status, -1 when a signal ended it.
func (p *program) wait() int {
	p.t.Helper()
	<-p.read
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// hello makes a front-end say its first word on a connection.
func hello(t *testing.T, c *frontend.Client, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Features(); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, path string) *frontend.Client {
	t.Helper()
	c, err := frontend.Dial(path)
	hello(t, c, err)
	return c
}

// imageHere makes an image in a folder of its own, and goes there, so that names
// of sockets are short.
func imageHere(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	must(t, "create", "disk.zvh", "--size", "1M", "--zone-size", "64K")
}

// SIGTERM, and the other signals that mean the same, end it cleanly also in the
// middle of a session: status 0, no socket left, the image sound and free.
func TestSignalsEndItCleanly(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		imageHere(t)
		p := start(t, "", nil, nil, "--socket-path=s", "--blk-file=disk.zvh")
		p.until("serving disk.zvh on s: host-managed disk")
		c := dial(t, "s")
		p.signal(sig)
		if status := p.wait(); status != exitOK {
			t.Errorf("%v: status %d:\n%s", sig, status, p.logged())
		}
		if _, err := os.Lstat("s"); err == nil {
			t.Errorf("%v: the socket is still there", sig)
		}
		if _, err := c.Features(); !errors.Is(err, frontend.ErrGone) {
			t.Errorf("%v: the front-end was not told: %v", sig, err)
		}
		must(t, "check", "disk.zvh")
	}
}

// After a kill -9 the next daemon starts without help.
func TestKillLeavesNothingInTheWay(t *testing.T) {
	imageHere(t)
	for range 2 {
		p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--blk-file", "disk.zvh")
		p.until("serving")
		dial(t, "s")
		p.signal(unix.SIGKILL)
		p.wait()
		if _, err := os.Lstat("s"); err != nil {
			t.Errorf("nothing is stale here: %v", err)
		}
	}
	must(t, "report", "disk.zvh")
}

// A daemon that breaks down, here by a signal that Go panics of, does not end like one
// whose command line is wrong: who looks after it must start it again.
func TestBreakdownIsNoUsageError(t *testing.T) {
	imageHere(t)
	p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--blk-file", "disk.zvh")
	p.until("serving")
	p.signal(unix.SIGSEGV)
	if status := p.wait(); status != -1 {
		t.Errorf("status %d, want its death by a signal:\n%s", status, p.logged())
	}
}

// Two daemons never have one image, and the second says who is in the way.
func TestSecondDaemon(t *testing.T) {
	imageHere(t)
	p := start(t, "", nil, nil, "--socket-path=s", "--blk-file=disk.zvh")
	p.until("serving")
	status, _, stderr := zvhost("serve", "--socket-path", "other", "--blk-file", "disk.zvh")
	if status != exitFailure || !strings.Contains(stderr, "in use by process") {
		t.Errorf("the same image: status %d: %s", status, stderr)
	}
	must(t, "create", "b.zvh", "--size", "1M", "--zone-size", "64K")
	status, _, stderr = zvhost("serve", "--socket-path", "s", "--blk-file", "b.zvh")
	if status != exitFailure || !strings.Contains(stderr, "another process listens there") {
		t.Errorf("the same socket: status %d: %s", status, stderr)
	}
	var report = must(t, "report", "disk.zvh", "--map") // beside it
	if !strings.Contains(report, "(being served)") {
		t.Errorf("the report says\n%s", report)
	}
}

// --create makes the image at the first start, and finds it at the second.
func TestServeCreates(t *testing.T) {
	t.Chdir(t.TempDir())
	for range 2 {
		p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--blk-file", "new.zvh", "--create", "--size", "1M", "--zone-size", "64K")
		p.until("serving new.zvh")
		p.signal(unix.SIGTERM)
		if status := p.wait(); status != exitOK {
			t.Errorf("status %d:\n%s", status, p.logged())
		}
	}
}

// listener makes a listening socket at path to hand down.
func listener(t *testing.T, path string) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return f
}

// Socket activation as systemd does it: LISTEN_PID is the process itself, so a
// shell sets it and becomes zvhost. Other descriptors may come along. The socket
// stays, since it is systemd's.
func TestSocketActivation(t *testing.T) {
	const activate = `LISTEN_PID=$$ exec "$0" "$@"`
	for _, tt := range []struct{ fds, names string }{
		{"1", ""}, {"1", "anything"}, {"2", "other:vhost-user"},
	} {
		imageHere(t)
		files := []*os.File{listener(t, "s")}
		if tt.fds == "2" {
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = null.Close() }()
			files = append([]*os.File{null}, files...)
		}
		early, err := frontend.Dial("s") // before anything runs
		if err != nil {
			t.Fatal(err)
		}
		p := start(t, activate, files, []string{"LISTEN_FDS=" + tt.fds, "LISTEN_FDNAMES=" + tt.names}, "serve", "--socket-path=s", "--blk-file=disk.zvh")
		hello(t, early, nil)
		p.signal(unix.SIGTERM)
		if status := p.wait(); status != exitOK {
			t.Errorf("%+v: status %d:\n%s", tt, status, p.logged())
		}
		if _, err := os.Lstat("s"); err != nil {
			t.Errorf("%+v: the service manager's socket is gone: %v", tt, err)
		}
	}

	imageHere(t)
	files := []*os.File{listener(t, "s"), listener(t, "s2")}
	p := start(t, activate, files, []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=a:b"}, "serve", "--blk-file=disk.zvh")
	if status := p.wait(); status != exitLasting || !strings.Contains(p.logged(), "FileDescriptorName=vhost-user") {
		t.Errorf("two sockets with other names: status %d: %s", status, p.logged())
	}
}

// --fd takes what management software hands down, connected or listening.
func TestInheritedDescriptor(t *testing.T) {
	imageHere(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := os.NewFile(uintptr(pair[0]), "near"), os.NewFile(uintptr(pair[1]), "far")
	p := start(t, "", []*os.File{far}, nil, "--fd=3", "--blk-file=disk.zvh", "--read-only")
	_ = far.Close()
	conn, err := net.FileConn(near)
	_ = near.Close()
	if err != nil {
		t.Fatal(err)
	}
	c, err := frontend.New(conn.(*net.UnixConn))
	hello(t, c, err)
	features, err := c.Features()
	if readOnly := features>>5&1 == 1; err != nil || !readOnly { // VIRTIO_BLK_F_RO
		t.Errorf("features %#x, %v: not read-only", features, err)
	}
	if features&vhostuser.FeatureProtocol == 0 {
		t.Errorf("features %#x: no protocol features", features)
	}
	_ = c.Close()
	if status := p.wait(); status != exitOK || !strings.Contains(p.logged(), "read-only") {
		t.Errorf("connected: status %d:\n%s", status, p.logged())
	}

	p = start(t, "", []*os.File{listener(t, "s")}, nil, "--fd=3", "--blk-file=disk.zvh")
	_ = dial(t, "s").Close()
	_ = dial(t, "s").Close()
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Errorf("listening: status %d:\n%s", status, p.logged())
	}
}

// A log that nobody reads any more does not end the daemon.
func TestLogReaderLeaves(t *testing.T) {
	imageHere(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// The shell gives zvhost the pipe as its log, and a line of its own says
	// when that is done.
	p := start(t, `exec "$0" "$@" 2>&3`, []*os.File{w}, nil, "--socket-path=s", "--blk-file=disk.zvh")
	_ = w.Close()
	if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	_ = dial(t, "s").Close()
	_ = dial(t, "s").Close()
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Errorf("status %d", status)
	}
}
