package vfiouser

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// A fakeDevice has memory for its regions and records what else the session calls.
type fakeDevice struct {
	mu      sync.Mutex
	diary   []string
	mem     [4][]byte
	files   map[uint64]*foreign.FD
	maps    map[DMA]bool
	fds     map[[2]uint32]int
	fail    error // of the next access, map or reset
	gone    bool
	resets  int
	reading func()
}

const (
	fakeRegion = 0 // readable and writable
	fakeROM    = 1 // readable
	fakeNone   = 2 // of 0 bytes
	fakeWrite  = 3 // writable

	fakeMSIX   = 0 // 5 vectors
	fakeLegacy = 1 // maskable, 2 vectors
	fakeNoIRQ  = 2 // none
	fakePolled = 3 // 1 vector, without eventfds
)

func newFake() *fakeDevice { return newFakeOf(2 * MaxData) }

func newFakeOf(size int) *fakeDevice {
	d := &fakeDevice{files: map[uint64]*foreign.FD{}, maps: map[DMA]bool{}, fds: map[[2]uint32]int{}}
	for i, n := range []int{size, 256, 0, 8} {
		d.mem[i] = make([]byte, n)
	}
	return d
}

func (d *fakeDevice) note(format string, args ...any) {
	d.diary = append(d.diary, fmt.Sprintf(format, args...))
}

// seen returns the diary and begins a new one.
func (d *fakeDevice) seen() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := strings.Join(d.diary, "; ")
	d.diary = nil
	return all
}

func (d *fakeDevice) failure() error {
	err := d.fail
	d.fail = nil
	return err
}

func (d *fakeDevice) failNext(err error) {
	d.mu.Lock()
	d.fail = err
	d.mu.Unlock()
}

func (d *fakeDevice) Info() Info {
	return Info{
		Regions: []Region{{uint64(len(d.mem[fakeRegion])), RegionReadable | RegionWritable}, {256, RegionReadable}, {}, {8, RegionWritable}},
		IRQs:    []IRQ{{5, IRQEventfd}, {2, IRQEventfd | IRQMaskable}, {}, {1, 0}},
	}
}

func (d *fakeDevice) ReadRegion(region uint32, dst []byte, off uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reading != nil {
		d.reading()
	}
	if err := d.failure(); err != nil {
		return err
	}
	copy(dst, d.mem[region][off:off+uint64(len(dst))])
	return nil
}

func (d *fakeDevice) WriteRegion(region uint32, src []byte, off uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failure(); err != nil {
		return err
	}
	copy(d.mem[region][off:off+uint64(len(src))], src)
	return nil
}

func (d *fakeDevice) MapDMA(m DMA, file *foreign.FD) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failure(); err != nil {
		_ = file.Close()
		return err
	}
	for have := range d.maps {
		if have.Address < m.Address+m.Size && m.Address < have.Address+have.Size {
			panic(fmt.Sprintf("%+v overlaps %+v", m, have))
		}
	}
	if len(d.maps) >= MaxMaps {
		panic("too many maps")
	}
	d.note("map %#x+%#x offset %#x file %t", m.Address, m.Size, m.Offset, file != nil)
	d.maps[m] = true
	d.files[m.Address] = file
	return nil
}

func (d *fakeDevice) UnmapDMA(maps []DMA) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failure(); err != nil {
		return err
	}
	for _, m := range maps {
		if !d.maps[m] {
			panic(fmt.Sprintf("%+v is not mapped", m))
		}
		d.note("unmap %#x+%#x", m.Address, m.Size)
		delete(d.maps, m)
		_ = d.files[m.Address].Close()
		delete(d.files, m.Address)
	}
	return nil
}

func (d *fakeDevice) SetIRQ(index, vector uint32, eventfd int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if eventfd >= 0 {
		if fl, err := unix.FcntlInt(uintptr(eventfd), unix.F_GETFL, 0); err != nil || fl&unix.O_NONBLOCK == 0 {
			panic(fmt.Sprintf("eventfd %d: flags %#x, %v", eventfd, fl, err))
		}
	}
	d.note("irq %d.%d %t", index, vector, eventfd >= 0)
	d.fds[[2]uint32{index, vector}] = eventfd
}

// interrupt signals a vector as a device does.
func (d *fakeDevice) interrupt(index, vector uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if fd, ok := d.fds[[2]uint32{index, vector}]; ok && fd >= 0 {
		foreign.Signal(fd)
	}
}

func (d *fakeDevice) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failure(); err != nil {
		return err
	}
	d.resets++
	d.note("reset")
	return nil
}

func (d *fakeDevice) Disconnect() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note("disconnect")
	for _, f := range d.files {
		_ = f.Close()
	}
	clear(d.files)
	clear(d.maps)
	clear(d.fds)
	d.gone = true
}

// socketPair returns two ends of a UNIX stream socket.
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

// A peer is a client that sends exactly what a test wants.
type peer struct {
	t    testing.TB
	uc   *net.UnixConn
	conn *Conn
	dev  *fakeDevice
	s    *Session
	m    Message
	id   uint16
	done chan error

	mu   sync.Mutex
	logs []string
}

// connect starts a session on a device. It has not negotiated.
func connect(t testing.TB, dev *fakeDevice, set ...func(*Session)) *peer {
	t.Helper()
	near, far := socketPair(t)
	conn, err := NewConn(near)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, uc: near, conn: conn, dev: dev, done: make(chan error, 1)}
	p.s, err = NewSession(far, dev, Options{Trace: true, Log: func(l Level, format string, args ...any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.logs = append(p.logs, fmt.Sprintf("%d ", l)+fmt.Sprintf(format, args...))
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range set {
		f(p.s)
	}
	go func() { p.done <- p.s.Run() }()
	return p
}

// agreed is connect, and VERSION.
func agreed(t testing.TB, dev *fakeDevice, set ...func(*Session)) *peer {
	t.Helper()
	p := connect(t, dev, set...)
	if _, errno := p.call(Version, VersionData{0, 1, nil}.Append(nil)); errno != 0 {
		t.Fatal(errno)
	}
	return p
}

func (p *peer) logged(part string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.logs {
		if strings.Contains(l, part) {
			return true
		}
	}
	return false
}

func (p *peer) send(flags uint32, c Command, payload []byte, fds ...int) {
	p.t.Helper()
	p.id++
	if err := p.conn.Write(Header{ID: p.id, Command: c, Flags: flags}, payload, fds...); err != nil {
		p.t.Fatal(err)
	}
}

// reply reads the reply to the last command.
func (p *peer) reply(c Command) ([]byte, unix.Errno) {
	p.t.Helper()
	if err := p.conn.ReadReply(&p.m); err != nil {
		p.t.Fatalf("reply to %v: %v", c, err)
	}
	if p.m.ID != p.id || p.m.Command != c || len(p.m.Files) > 0 {
		p.t.Fatalf("reply to %v %d is %v %d", c, p.id, &p.m, p.m.ID)
	}
	if p.m.Flags&FlagError != 0 {
		if len(p.m.Payload) > 0 || p.m.Errno == 0 {
			p.t.Fatalf("an error reply %v with %d bytes, errno %d", &p.m, len(p.m.Payload), p.m.Errno)
		}
		return nil, unix.Errno(p.m.Errno)
	}
	return p.m.Payload, 0
}

func (p *peer) call(c Command, payload []byte, fds ...int) ([]byte, unix.Errno) {
	p.t.Helper()
	p.send(0, c, payload, fds...)
	return p.reply(c)
}

// must is call that succeeds.
func (p *peer) must(c Command, payload []byte, fds ...int) []byte {
	p.t.Helper()
	b, errno := p.call(c, payload, fds...)
	if errno != 0 {
		p.t.Fatalf("%v: %v", c, errno)
	}
	return b
}

// leave ends the connection, and returns how the session ended.
func (p *peer) leave() error {
	p.t.Helper()
	_ = p.conn.Close()
	err := <-p.done
	if !p.dev.gone {
		p.t.Error("the device was not disconnected")
	}
	return err
}

// quit is leave that expects a good end.
func (p *peer) quit() {
	p.t.Helper()
	if err := p.leave(); err != nil {
		p.t.Errorf("the session ended with %v", err)
	}
}

// ends waits for the end of a session and checks what it says.
func (p *peer) ends(part string) {
	p.t.Helper()
	err := <-p.done
	_ = p.conn.Close()
	p.m.Close()
	if err == nil || !strings.Contains(err.Error(), part) {
		p.t.Errorf("the session ended with %v, want %q", err, part)
	}
	if !p.dev.gone {
		p.t.Error("the device was not disconnected")
	}
}

func memfd(t testing.TB, size int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("vfiouser", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	return fd
}

func eventfd(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// count reads an eventfd's counter, which becomes 0.
func count(t testing.TB, fd int) uint64 {
	t.Helper()
	var b [8]byte
	switch n, err := unix.Read(fd, b[:]); {
	case err == unix.EAGAIN:
		return 0
	case err != nil || n != 8:
		t.Fatal(n, err)
	}
	return le.Uint64(b[:])
}

var errBoom = errors.New("boom")
