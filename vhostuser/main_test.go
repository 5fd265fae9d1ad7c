package vhostuser

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// fakeDevice keeps a diary of what a session does to it, and panics when the
// session breaks the rules of Device.
type fakeDevice struct {
	mu      sync.Mutex
	diary   []string
	running [2]bool
	rings   [2]transport.Ring
	starts  int
	changed func() bool

	abandoned atomic.Bool

	needsReset atomic.Bool

	config [96]byte
	// What to answer, set before the session runs.
	refuse    error  // SetFeatures
	noStart   error  // StartQueue
	noRelease error  // Yield
	adopting  func() // called by Adopt
	progress  uint16

	choices    uint64 // of State
	usedBefore int    // rings that began so
	shown      int    // queues; 0 before ShowQueues
}

const (
	fakeFeatures = 1<<34 | 1<<32 | 1<<29 | 1<<28 | 1<<17 | 1<<9
	needed       = 1<<32 | 1<<17
)

func (d *fakeDevice) note(format string, args ...any) {
	d.diary = append(d.diary, fmt.Sprintf(format, args...))
}

// told returns the diary and begins a new one.
func (d *fakeDevice) told() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := strings.Join(d.diary, "; ")
	d.diary = nil
	return all
}

// ring is what StartQueue was last told.
func (d *fakeDevice) ring(i int) transport.Ring {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rings[i]
}

func (d *fakeDevice) Queues() int { return len(d.running) }

// Features has bit 30 set, which the session is to mask.
func (d *fakeDevice) Features() uint64 { return fakeFeatures | FeatureProtocol }

func (d *fakeDevice) idle(what string) {
	for i, on := range d.running {
		if on {
			panic(fmt.Sprintf("%s while queue %d runs", what, i))
		}
	}
}

func (d *fakeDevice) SetFeatures(f uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle("SetFeatures")
	if f&^fakeFeatures != 0 {
		panic(fmt.Sprintf("features %#x were not offered", f))
	}
	d.note("features %#x", f)
	return d.refuse
}

func (d *fakeDevice) ReadConfig(dst []byte, off uint32) error {
	if uint64(off)+uint64(len(dst)) > uint64(len(d.config)) {
		return fmt.Errorf("config space ends at %d", len(d.config))
	}
	copy(dst, d.config[off:])
	return nil
}

func (d *fakeDevice) WriteConfig(src []byte, off uint32) error {
	if uint64(off)+uint64(len(src)) > uint64(len(d.config)) {
		return fmt.Errorf("config space ends at %d", len(d.config))
	}
	copy(d.config[off:], src)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note("config %d+%d", off, len(src))
	return nil
}

func (d *fakeDevice) Watch(changed func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed = changed
}

func (d *fakeDevice) SaveState() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle("SaveState")
	return []byte("all that it knows")
}

func (d *fakeDevice) Release() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle("Yield")
	d.note("yield")
	return d.noRelease
}

func (d *fakeDevice) LoadState(s []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle("LoadState")
	if string(s) != "all that it knows" {
		return fmt.Errorf("what is %q", s)
	}
	d.note("loaded")
	return nil
}

func (d *fakeDevice) StartQueue(i int, r transport.Ring) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running[i] {
		panic(fmt.Sprintf("queue %d started twice", i))
	}
	if r.Size == 0 || r.Mem == nil || r.Kick < 0 {
		panic(fmt.Sprintf("queue %d started without all it needs: %+v", i, r))
	}
	parts := [][2]uint64{{r.Desc, 16 * uint64(r.Size)}, {r.Avail, 4 + 2*uint64(r.Size)}, {r.Used, 4 + 8*uint64(r.Size)}}
	if r.Features&featureRingPacked != 0 {
		parts[1][1], parts[2][1] = 4, 4
	}
	for _, part := range parts {
		if _, err := r.Mem.UserBytes(part[0], part[1]); err != nil {
			panic(err)
		}
	}
	for _, fd := range []int{r.Kick, r.Call, r.Err} {
		if fd < 0 {
			continue
		}
		if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || fl&unix.O_NONBLOCK == 0 {
			panic(fmt.Sprintf("queue %d: descriptor %d: flags %#x, %v", i, fd, fl, err))
		}
	}
	if d.noStart != nil {
		d.note("no start %d", i)
		return d.noStart
	}
	d.note("start %d at %d", i, r.Base)
	d.running[i], d.rings[i] = true, r
	d.starts++
	return nil
}

func (d *fakeDevice) Serve() {}

func (d *fakeDevice) Abandon(dead bool) { d.abandoned.Store(dead) }

func (d *fakeDevice) Notify(i int, call, err int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.running[i] {
		panic(fmt.Sprintf("queue %d signals others, but it does not run", i))
	}
	d.note("signals %d", i)
	d.rings[i].Call, d.rings[i].Err = call, err
}

func (d *fakeDevice) BeginStop(int) { panic("vhost-user stops queues one by one") }

func (d *fakeDevice) StopQueue(i int, why string) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.running[i] {
		panic(fmt.Sprintf("queue %d stopped, but it does not run", i))
	}
	d.running[i] = false
	base := uint32(uint16(d.rings[i].Base) + d.progress)
	if d.rings[i].Features&featureRingPacked != 0 {
		base = d.rings[i].Base + uint32(d.progress)*0x1_0001
	}
	d.note("stop %d at %d", i, base)
	return base
}

func (d *fakeDevice) Adopt(*inflight.Record) {
	if d.adopting != nil {
		d.adopting()
	}
}

func (d *fakeDevice) Leave()                           {}
func (d *fakeDevice) BeginFrontEnd()                   {}
func (d *fakeDevice) State() (is, choices uint64)      { return 0, d.choices }
func (d *fakeDevice) Restore(is, choices uint64) error { d.choices = choices; return nil }
func (d *fakeDevice) NeedsReset() bool                 { return d.needsReset.Load() }

func (d *fakeDevice) ShowQueues(n int) {
	d.mu.Lock()
	d.shown = n
	d.mu.Unlock()
}

func (d *fakeDevice) BeginRing(usedBefore bool) {
	if d.mu.Lock(); usedBefore {
		d.usedBefore++
	}
	d.mu.Unlock()
}

func (d *fakeDevice) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle("Reset")
	d.note("reset")
}

// socketPair returns two ends of a Unix stream socket.
func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// peer is a front-end that says exactly what a test wants it to.
type peer struct {
	t    testing.TB
	conn *Conn
	dev  *fakeDevice
	s    *Session
	m    Message
	done chan error

	logMu sync.Mutex
	logs  []string
}

// connect starts a session on dev and returns its front-end.
func connect(t testing.TB, dev *fakeDevice) *peer {
	t.Helper()
	return connectWith(t, dev, func(*Session) {})
}

// connectWith is connect for a session that is to be set up before it runs.
func connectWith(t testing.TB, dev *fakeDevice, set func(*Session)) *peer {
	t.Helper()
	near, far := socketPair(t)
	p := &peer{t: t, conn: NewConn(near), dev: dev, done: make(chan error, 1)}
	p.s = NewSession(far, dev, Options{Trace: true, Log: func(l Level, format string, args ...any) {
		p.logMu.Lock()
		defer p.logMu.Unlock()
		p.logs = append(p.logs, fmt.Sprintf("%d ", l)+fmt.Sprintf(format, args...))
	}})
	set(p.s)
	go func() { p.done <- p.s.Run() }()
	return p
}

func (p *peer) logged(level Level, part string) bool {
	p.logMu.Lock()
	defer p.logMu.Unlock()
	for _, l := range p.logs {
		if strings.HasPrefix(l, fmt.Sprintf("%d ", level)) && strings.Contains(l, part) {
			return true
		}
	}
	return false
}

// send sends a message without asking for an acknowledgement.
func (p *peer) send(r Request, payload []byte, fds ...int) {
	p.t.Helper()
	if err := p.conn.Write(r, Version, payload, fds...); err != nil {
		p.t.Fatal(err)
	}
}

// call sends a message and returns the payload of its answer.
func (p *peer) call(r Request, payload []byte, fds ...int) []byte {
	p.t.Helper()
	p.send(r, payload, fds...)
	return p.answer(r)
}

func (p *peer) answer(r Request) []byte {
	p.t.Helper()
	if err := p.conn.ReadReply(&p.m); err != nil {
		p.t.Fatalf("answer to %v: %v", r, err)
	}
	if p.m.Request != r || p.m.Flags != Version|FlagReply {
		p.t.Fatalf("answer to %v: %v with flags %#x", r, p.m.Request, p.m.Flags)
	}
	return p.m.Payload
}

// ask sends a message with need_reply and says whether it was taken.
func (p *peer) ask(r Request, payload []byte, fds ...int) bool {
	p.t.Helper()
	if err := p.conn.Write(r, Version|FlagNeedReply, payload, fds...); err != nil {
		p.t.Fatal(err)
	}
	v, err := ParseU64(p.answer(r))
	if err != nil {
		p.t.Fatal(err)
	}
	return v == 0
}

// must is ask for a message that is to be taken.
func (p *peer) must(r Request, payload []byte, fds ...int) {
	p.t.Helper()
	if !p.ask(r, payload, fds...) {
		p.t.Fatalf("%v was refused: %q", r, p.logs)
	}
}

// mustNot is ask for a message that is to be refused, with words in the log.
func (p *peer) mustNot(words string, r Request, payload []byte, fds ...int) {
	p.t.Helper()
	if p.ask(r, payload, fds...) {
		p.t.Fatalf("%v was taken", r)
	}
	if !p.logged(LevelWarn, words) && !p.logged(LevelDebug, words) {
		p.t.Fatalf("%v: no log line has %q: %q", r, words, p.logs)
	}
}

// tells fails unless the diary of the device says want.
func (p *peer) tells(want string) {
	p.t.Helper()
	// An answered message makes sure that earlier ones were acted on.
	p.call(GetFeatures, nil)
	if got := p.dev.told(); got != want {
		p.t.Fatalf("the device was told\n\t%q, want\n\t%q", got, want)
	}
}

// leave closes the front-end's end, and returns what Run returned.
func (p *peer) leave() error {
	p.t.Helper()
	_ = p.conn.Close()
	p.m.Close()
	return <-p.done
}

// ends waits until the session ends by itself, and returns why.
func (p *peer) ends() error {
	p.t.Helper()
	if err := p.conn.ReadReply(&p.m); err != io.EOF && !strings.Contains(err.Error(), "connection reset") {
		p.t.Fatalf("instead of the end: %v, %v", &p.m, err)
	}
	err := <-p.done
	_ = p.conn.Close()
	return err
}

// negotiate agrees on all protocol features and the usual device features.
func (p *peer) negotiate() {
	p.t.Helper()
	p.must(SetProtocolFeatures, AppendU64(nil, Offered))
	p.must(SetOwner, nil)
	p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol))
}

// A guest address space for tests: user addresses differ from guest addresses
// so that a mix-up shows.
const (
	pageSize   = 4096
	userOffset = 0x7f00_0000_0000
)

func desc(gpa, size, off uint64) guestmem.RegionDesc {
	return guestmem.RegionDesc{GuestAddr: gpa, Size: size, UserAddr: gpa + userOffset, MmapOffset: off}
}

// memFD makes a memfd of size bytes, closed at the end of the test.
func memFD(t testing.TB, size int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	return fd
}

// eventFD makes a blocking eventfd, closed at the end of the test.
func eventFD(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// ringAddr puts ring i of up to 64 descriptors on page i of the guest.
func ringAddr(i uint32) VringAddr {
	at := uint64(i)*pageSize + userOffset
	return VringAddr{Index: i, Desc: at, Avail: at + 1024, Used: at + 2048}
}

// setUp gives the session 1 MiB of memory and all of ring i but its kick.
func (p *peer) setUp(i uint32) {
	p.t.Helper()
	p.must(SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)}), memFD(p.t, 1<<20))
	p.must(SetVringNum, VringState{i, 64}.Append(nil))
	p.must(SetVringBase, VringState{i, 7}.Append(nil))
	p.must(SetVringAddr, ringAddr(i).Append(nil))
	p.must(SetVringEnable, VringState{i, 1}.Append(nil))
}

func (p *peer) kick(i uint32) {
	p.t.Helper()
	p.must(SetVringKick, VringFile{Index: uint8(i)}.Append(nil), eventFD(p.t))
}
