package device

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/testlog"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A rig is a device over a real file, which front-ends can be connected to. When
// the test ends everything is closed, and an image has to be whole.
type rig struct {
	t    testing.TB
	path string
	disk disk.Disk
	dev  *Device
	book *testlog.Book

	session *vhostuser.Session // the last one
	closed  bool
}

// rigGeometry is a small zoned disk: 16 zones of 64 KiB.
var rigGeometry = zone.Geometry{CapacitySectors: 2048, ZoneSectors: 128}

const rigSerial = "ZV0815"

func newRig(t testing.TB, path string, queues int) *rig {
	t.Helper()
	return openRig(t, path, queues, disk.Options{})
}

func openRig(t testing.TB, path string, queues int, o disk.Options) *rig {
	t.Helper()
	disk, err := backend.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return diskRig(t, path, disk, queues)
}

// nullRig is a rig over a disk without storage.
func nullRig(t testing.TB, queues int) *rig {
	t.Helper()
	disk, err := backend.NewNull(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	return diskRig(t, "", disk, queues)
}

// diskRig is a rig over a disk that is open.
func diskRig(t testing.TB, path string, disk disk.Disk, queues int) *rig {
	t.Helper()
	log, book := testlog.New()
	dev, err := New(disk, Options{Queues: queues, Serial: rigSerial, Log: log})
	if err != nil {
		t.Fatal(errors.Join(err, disk.Close()))
	}
	r := &rig{t: t, path: path, disk: disk, dev: dev, book: book}
	t.Cleanup(r.close)
	return r
}

// close closes everything, once, and checks an image.
func (r *rig) close() {
	r.t.Helper()
	if r.closed {
		return
	}
	r.closed = true
	if err := errors.Join(r.dev.Close(), r.dev.disk.Close()); err != nil {
		r.t.Error(err)
	}
	if r.disk.Info().Zoned == nil || r.dev.custody.detached { // or another's to check
		return
	}
	findings, err := image.Check(r.path)
	if err != nil {
		r.t.Error(err)
	}
	for _, f := range findings {
		r.t.Error(f)
	}
}

// zonedRig is a rig over a new image.
func zonedRig(t testing.TB, g zone.Geometry, queues int) *rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.zvh")
	if err := image.Create(path, g); err != nil {
		t.Fatal(err)
	}
	return newRig(t, path, queues)
}

// plainRig is a rig over a new ordinary file of 1 MiB.
func plainRig(t testing.TB, queues int) *rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return newRig(t, path, queues)
}

// A guest is a front-end with its session.
type guest struct {
	*frontend.Disk
	r     *rig
	ended chan error
}

// connect starts a session and has a front-end use the disk.
func (r *rig) connect(o frontend.Options) *guest {
	r.t.Helper()
	client, ended := r.dial()
	d, err := frontend.Open(client, o)
	if err != nil {
		r.t.Fatalf("%v\n%s", errors.Join(err, <-ended), r.book)
	}
	return &guest{Disk: d, r: r, ended: ended}
}

// dial starts a session with a front-end that has said nothing yet.
func (r *rig) dial() (*frontend.Client, chan error) {
	r.t.Helper()
	far, near := socketPair(r.t)
	s := vhostuser.NewSession(far, r.dev, vhostuser.Options{Log: func(l vhostuser.Level, format string, args ...any) {
		r.dev.log.Info(fmt.Sprintf("session %d: ", l) + fmt.Sprintf(format, args...))
	}})
	r.session = s
	ended := make(chan error, 1)
	go func() { ended <- s.Run() }()
	client, err := frontend.New(near)
	if err != nil {
		r.t.Fatal(err)
	}
	return client, ended
}

func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// leave stops the queues and ends the session, neither of which may go wrong.
func (g *guest) leave() {
	g.r.t.Helper()
	if err := errors.Join(g.Close(), <-g.ended); err != nil {
		g.r.t.Fatalf("%v\n%s", err, g.r.book)
	}
}

// vanish leaves like a front-end that is killed.
func (g *guest) vanish() {
	g.r.t.Helper()
	if err := errors.Join(g.Abandon(), <-g.ended); err != nil {
		g.r.t.Fatalf("%v\n%s", err, g.r.book)
	}
}

// status is the status that a request ends with. One that gets none fails the
// test.
func (g *guest) status(err error) byte {
	g.r.t.Helper()
	s := frontend.Status(err)
	if s == driver.StatusNone {
		g.r.t.Fatalf("%v\n%s", err, g.r.book)
	}
	return s
}

// want checks the outcome of a request.
func (g *guest) want(what string, status byte, err error) {
	g.r.t.Helper()
	if got := g.status(err); got != status {
		g.r.t.Errorf("%s: %s, want %s", what, driver.StatusString(got), driver.StatusString(status))
	}
}

// errFD gives queue i an err eventfd. It is closed when the test ends.
func (g *guest) errFD(i int) int {
	g.r.t.Helper()
	fd := newEventFD(g.r.t)
	if err := g.Client.SetVringErr(i, fd); err != nil {
		g.r.t.Fatal(err)
	}
	return fd
}

func newEventFD(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// hopeless ends a wait for what will never come, in milliseconds.
const hopeless = 120_000

// readable waits until fd is readable.
func readable(t testing.TB, what string, fd int) {
	t.Helper()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, hopeless)
		switch {
		case err == unix.EINTR:
		case err != nil:
			t.Fatal(err)
		case n == 0:
			t.Fatalf("%s: nothing came", what)
		default:
			return
		}
	}
}

// kick wakes the worker of queue i, whether it wants that or not.
func (g *guest) kick(i int) { signalFD(g.Queue(i).KickFD()) }

// nextIsServed has a new front-end use the disk.
func (r *rig) nextIsServed() {
	r.t.Helper()
	g := r.connect(frontend.Options{})
	q, got := g.Queue(0), make([]byte, 4096)
	sector := uint64(g.Config.ZoneSectors) // the second zone's first one
	if sector != 0 {
		g.want("reset", driver.StatusOK, q.Zone(driver.TypeZoneReset, sector))
	}
	g.want("write", driver.StatusOK, q.Write(pattern(4096, 1), sector))
	g.want("read", driver.StatusOK, q.Read(got, sector))
	if !bytes.Equal(got, pattern(4096, 1)) {
		r.t.Error("the next front-end reads something else than it wrote")
	}
	g.leave()
}

// logged fails the test unless words are in the log.
func (r *rig) logged(words string) {
	r.t.Helper()
	if !strings.Contains(r.book.String(), words) {
		r.t.Errorf("no %q in the log:\n%s", words, r.book)
	}
}

// pattern is n bytes that are those of no other seed.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	for i := range b {
		x := seed*0x9e3779b97f4a7c15 + uint64(i)*0xbf58476d1ce4e5b9
		b[i] = byte(x >> 56)
	}
	return b
}

// A gate stands before a device's engines: while it is shut I/O is held back,
// and while it is broken I/O fails.
type gate struct {
	shut, broken atomic.Bool
	ended        atomic.Bool  // the kernel takes no more
	held         atomic.Int64 // Ops that wait
	stable       atomic.Int64 // those that make something stable

	mu    sync.Mutex
	wakes []func()
}

// newGate puts a gate before the engines of r's device, for queues that are yet
// to be started.
func (r *rig) newGate() *gate {
	g := new(gate)
	r.t.Cleanup(g.open) // before the device is closed, which waits for its I/O
	r.dev.engine = func(wake func()) (engine.Engine, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.wakes = append(g.wakes, wake)
		return &gatedEngine{Threads: engine.NewThreads(2, wake), gate: g}, nil
	}
	return g
}

// open lets the held I/O go.
func (g *gate) open() {
	g.shut.Store(false)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, wake := range g.wakes {
		wake()
	}
}

type gatedEngine struct {
	*engine.Threads
	gate   *gate
	held   []*engine.Op
	failed []*engine.Op
}

func (e *gatedEngine) Queue(op *engine.Op) {
	if op.Dsync || op.Code == engine.Fdatasync {
		e.gate.stable.Add(1)
	}
	switch {
	case e.gate.broken.Load() && op.Code != engine.PunchHole && op.Code != engine.ZeroRange:
		op.N, op.Err = 0, unix.EIO
		e.failed = append(e.failed, op)
	case e.gate.shut.Load():
		e.held = append(e.held, op)
		e.gate.held.Add(1)
	default:
		e.Threads.Queue(op)
	}
}

func (e *gatedEngine) Submit() {
	if !e.gate.shut.Load() {
		for _, op := range e.held {
			e.Threads.Queue(op)
			e.gate.held.Add(-1)
		}
		e.held = e.held[:0]
	}
	e.Threads.Submit()
}

func (e *gatedEngine) Err() error {
	if e.gate.ended.Load() {
		return unix.EBADF
	}
	return nil
}

func (e *gatedEngine) Reap() *engine.Op {
	if n := len(e.failed); n > 0 {
		op := e.failed[n-1]
		e.failed = e.failed[:n-1]
		return op
	}
	return e.Threads.Reap()
}

// wait returns when n Ops are held back.
func (g *gate) wait(n int64) {
	for g.held.Load() < n {
		runtime.Gosched()
	}
}
