package vduse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/device"
	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/internal/testlog"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// A fakeKernel is the kernel's side as drivers/vdpa/vdpa_user has it: a device whose state
// outlives the processes that serve it. Its zero value is a device without memory.
type fakeKernel struct {
	mu       sync.Mutex
	served   chan struct{}        // closed by Close; nil: nobody has it open
	requests chan Request         // sent, and not read
	waiting  map[uint32]*question // sent, and not answered
	order    []uint32             // of these, by when they were sent
	lastID   uint32

	status     uint8
	features   uint64 // the driver's
	queues     []QueueInfo
	kicks      []int // eventfds, -1: none
	calls      []int // eventfds that the driver waits on
	early      int   // interrupts that were refused, since DRIVER_OK was not there yet
	interrupts int
	config     []byte
	changes    int // configuration interrupts
	broken     bool
	memory     []memoryPart
	lookups    int
}

type question struct {
	request Request
	answer  chan Response
}

// A memoryPart is memory that the driver has given.
type memoryPart struct {
	file        int
	offset      uint64
	start, last uint64
	perm        uint8
}

func newFakeKernel(queues int) *fakeKernel {
	k := &fakeKernel{waiting: map[uint32]*question{}, requests: make(chan Request, 100), queues: make([]QueueInfo, queues), config: make([]byte, 96)}
	for range queues {
		k.kicks, k.calls = append(k.kicks, -1), append(k.calls, -1)
	}
	return k
}

// open is what another process does: what was sent and not answered comes again.
func (k *fakeKernel) open() *fakeKernel {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.served = make(chan struct{})
	for len(k.requests) > 0 {
		<-k.requests
	}
	for _, id := range k.order {
		k.requests <- k.waiting[id].request
	}
	return k
}

// ask sends a message, and returns the answer.
func (k *fakeKernel) ask(r Request) Response {
	k.mu.Lock()
	k.lastID++
	r.ID = k.lastID
	q := &question{r, make(chan Response, 1)}
	k.waiting[r.ID] = q
	k.order = append(k.order, r.ID)
	k.mu.Unlock()
	k.requests <- r
	return <-q.answer
}

// setStatus is what the kernel does with the status that a driver sets.
func (k *fakeKernel) setStatus(status uint8) (failed bool) {
	a := k.ask(Request{Type: SetStatus, Status: status})
	k.mu.Lock()
	defer k.mu.Unlock()
	if status != 0 {
		if !a.Failed {
			k.status = status
		}
		return a.Failed
	}
	k.status, k.features = 0, 0
	for i := range k.queues {
		k.queues[i] = QueueInfo{}
		k.setKick(i, -1)
	}
	return a.Failed
}

func (k *fakeKernel) Read(b []byte) (int, error) {
	select {
	case r := <-k.requests:
		return copy(b, r.Append(nil)), nil
	case <-k.served:
		return 0, os.ErrClosed
	}
}

func (k *fakeKernel) Write(b []byte) (int, error) {
	a, err := ParseResponse(b)
	if err != nil {
		return 0, unix.EINVAL
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	q := k.waiting[a.ID]
	if q == nil {
		return 0, unix.ENOENT
	}
	delete(k.waiting, a.ID)
	for i, id := range k.order {
		if id == a.ID {
			k.order = append(k.order[:i], k.order[i+1:]...)
			break
		}
	}
	q.answer <- a
	return len(b), nil
}

func (k *fakeKernel) Features() (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken {
		return 0, unix.EPERM
	}
	return k.features, nil
}

func (k *fakeKernel) SetConfig(off uint32, b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if int(off)+len(b) > len(k.config) {
		return unix.EINVAL
	}
	copy(k.config[off:], b)
	return nil
}

func (k *fakeKernel) ConfigInterrupt() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.status&statusDriverOK == 0 {
		return unix.EINVAL
	}
	k.changes++
	return nil
}

func (k *fakeKernel) SetupQueue(int, uint16) error { return nil }

func (k *fakeKernel) Queue(i int) (QueueInfo, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i >= len(k.queues) {
		return QueueInfo{}, unix.EINVAL
	}
	return k.queues[i], nil
}

// SetKick takes a reference of its own to the eventfd, as the kernel does.
func (k *fakeKernel) SetKick(i, fd int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if fd >= 0 {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		fd = dup
	}
	k.setKick(i, fd)
	return nil
}

func (k *fakeKernel) setKick(i, fd int) {
	if k.kicks[i] >= 0 {
		_ = unix.Close(k.kicks[i])
	}
	k.kicks[i] = fd
}

// kick is the driver's notification.
func (k *fakeKernel) kick(i int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kicks[i] >= 0 {
		foreign.Signal(k.kicks[i])
	}
}

func (k *fakeKernel) Interrupt(i int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.status&statusDriverOK == 0 {
		k.early++
		return unix.EINVAL
	}
	k.interrupts++
	if k.queues[i].Ready && k.calls[i] >= 0 {
		foreign.Signal(k.calls[i])
	}
	return nil
}

func (k *fakeKernel) Lookup(addr uint64) (Mapping, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lookups++
	for _, p := range k.memory {
		if p.start <= addr && addr <= p.last {
			fd, err := unix.FcntlInt(uintptr(p.file), unix.F_DUPFD_CLOEXEC, 0)
			return Mapping{foreign.NewFD(fd), p.offset, p.start, p.last, p.perm}, err
		}
	}
	return Mapping{}, unix.EINVAL
}

func (k *fakeKernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.served)
	return nil
}

// Where a guest has its memory.
const (
	dataAt    = 0         // through which all data goes, as virtio_vdpa has it
	dataBytes = 1 << 20   //
	ringsAt   = 1 << 30   // one region for each ring
	ringBytes = 256 << 10 //
	ringSize  = 64
)

// A guest is a kernel with a driver.
type guest struct {
	*fakeKernel
	t     testing.TB
	file  int
	mem   *guestmem.Memory
	parts []*guestmem.Region
	rings []*driver.Ring
	next  uint64 // where a request puts its data
}

func newGuest(t testing.TB, queues int) *guest {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{fakeKernel: newFakeKernel(queues), t: t, file: fd, rings: make([]*driver.Ring, queues)}
	if err := unix.Ftruncate(fd, int64(dataBytes+2*queues*ringBytes)); err != nil {
		t.Fatal(err)
	}
	for i := range g.calls {
		if g.calls[i], err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for i := range g.calls {
			g.setKick(i, -1)
			_ = unix.Close(g.calls[i])
		}
		g.unmap()
		_ = unix.Close(fd)
	})
	return g
}

func (g *guest) unmap() {
	for _, r := range g.parts {
		_ = r.Unmap()
	}
	g.parts = nil
}

// give has the guest's rings in one of two places of its memory, at the same addresses.
func (g *guest) give(place int) {
	g.t.Helper()
	g.unmap()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.memory = nil
	for i := range g.rings {
		offset := uint64(dataBytes + (2*i+place)*ringBytes)
		start := uint64(ringsAt + i*ringBytes)
		g.memory = append(g.memory, memoryPart{g.file, offset, start, start + ringBytes - 1, accessRO | accessWO})
		g.mapPart(start, offset, ringBytes)
	}
	g.mapPart(dataAt, 0, dataBytes)
	var err error
	if g.mem, err = guestmem.New(g.parts); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guest) mapPart(addr, offset, size uint64) {
	r, err := guestmem.Map(g.file, guestmem.RegionDesc{GuestAddr: addr, UserAddr: addr, Size: size, MmapOffset: offset})
	if err != nil {
		g.t.Fatal(err)
	}
	g.parts = append(g.parts, r)
}

// begin does what a driver does with a device, up to DRIVER_OK.
func (g *guest) begin(features uint64, place int) (failed bool) {
	g.t.Helper()
	g.setStatus(0)
	g.setStatus(1)
	g.setStatus(3)
	g.mu.Lock()
	g.features = features
	g.mu.Unlock()
	if g.setStatus(11) {
		return true
	}
	g.give(place)
	for i := range g.rings {
		ring, err := driver.NewRing(g.mem, uint64(ringsAt+i*ringBytes), ringSize, features)
		if err != nil {
			g.t.Fatal(err)
		}
		c := ring.Config()
		q := QueueInfo{Size: ringSize, Desc: c.Desc, Driver: c.Avail, DeviceArea: c.Used, Ready: true}
		q.State = stateOf(ring.Base(), features&featureRingPacked != 0)
		g.mu.Lock()
		g.queues[i], g.rings[i] = q, ring
		g.mu.Unlock()
	}
	return g.setStatus(15)
}

// showData has the kernel give the memory of data, as it does from the first request on.
func (g *guest) showData() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.memory {
		if p.start == dataAt {
			return
		}
	}
	g.memory = append(g.memory, memoryPart{g.file, 0, dataAt, dataAt + dataBytes - 1, accessRO | accessWO})
}

const sector = 512

// do carries out a request of so many sectors, and returns the status, the sector of an append,
// and the data.
func (g *guest) do(queue int, typ uint32, at uint64, data []byte) (byte, uint64, []byte) {
	g.t.Helper()
	b := g.send(queue, typ, at, data)
	status, where := g.wait(queue, b)
	out := make([]byte, len(data))
	if err := g.mem.ReadAt(out, b.Data[0].GuestAddr); err != nil {
		g.t.Fatal(err)
	}
	return status, where, out
}

// send puts a request into a ring and kicks.
func (g *guest) send(queue int, typ uint32, at uint64, data []byte) *driver.Blk {
	g.t.Helper()
	g.showData()
	scratch := 4096 + g.next%64*8192
	g.next++
	b := &driver.Blk{Type: typ, Sector: at, Scratch: scratch, Data: []driver.Buffer{{GuestAddr: scratch + 4096, Len: uint32(len(data))}}}
	buf, err := g.mem.Bytes(scratch+4096, uint64(len(data)))
	if err != nil {
		g.t.Fatal(err)
	}
	copy(buf, data)
	if _, err := g.rings[queue].AddBlk(b, 0); err != nil {
		g.t.Fatal(err)
	}
	g.rings[queue].Publish()
	g.kick(queue)
	return b
}

// wait waits for the interrupt of a request.
func (g *guest) wait(queue int, b *driver.Blk) (byte, uint64) {
	g.t.Helper()
	ring := g.rings[queue]
	for {
		if _, ok := ring.Next(); ok {
			break
		}
		if err := ring.Err(); err != nil {
			g.t.Fatal(err)
		}
		if ring.EnableCalls() {
			continue
		}
		var count [8]byte
		if _, err := unix.Read(g.calls[queue], count[:]); err != nil && !errors.Is(err, unix.EINTR) {
			g.t.Fatal(err)
		}
	}
	status, where, err := ring.BlkResult(b)
	if err != nil {
		g.t.Fatal(err)
	}
	return status, where
}

// fill is so many sectors of a pattern.
func fill(sectors int, seed byte) []byte {
	b := make([]byte, sectors*sector)
	for i := range b {
		b[i] = seed + byte(i/sector)*7 + byte(i)
	}
	return b
}

// A host has a disk and the device over it.
type host struct {
	t    testing.TB
	dir  string
	path string
	disk disk.Disk
	dev  *device.Device
	book *testlog.Book
	log  []string
	mu   sync.Mutex
}

func zonedHost(t testing.TB, queues int) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	h.path = filepath.Join(h.dir, "disk.zvh")
	if err := image.Create(h.path, zone.Geometry{CapacitySectors: 2048, ZoneSectors: 128}); err != nil {
		t.Fatal(err)
	}
	h.openDevice(queues)
	return h
}

func plainHost(t testing.TB, queues int) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	h.path = filepath.Join(h.dir, "disk.raw")
	if err := os.WriteFile(h.path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.openDevice(queues)
	return h
}

// nullHost has a disk without storage.
func nullHost(t testing.TB, queues int) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	h.openDevice(queues)
	return h
}

func (h *host) openDevice(queues int) {
	h.t.Helper()
	var d disk.Disk
	var err error
	if h.path == "" {
		d, err = backend.NewNull(2048)
	} else {
		d, err = backend.Open(h.path, disk.Options{})
	}
	if err != nil {
		h.t.Fatal(err)
	}
	log, book := testlog.New()
	dev, err := device.New(d, device.Options{Queues: queues, Log: log})
	if err != nil {
		h.t.Fatal(errors.Join(err, d.Close()))
	}
	h.disk, h.dev, h.book = d, dev, book
	h.t.Cleanup(h.closeDevice)
}

// closeDevice closes what another process has open by then.
func (h *host) closeDevice() {
	if h.dev == nil {
		return
	}
	if err := errors.Join(h.dev.Close(), h.disk.Close()); err != nil {
		h.t.Error(err)
	}
	h.dev = nil
}

func (h *host) options() Options {
	return Options{Space: 96, Attached: func() bool { return true }, Log: func(level Level, format string, args ...any) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.log = append(h.log, fmt.Sprintf(format, args...))
	}}
}

func (h *host) logged(words string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Contains(strings.Join(h.log, "\n"), words)
}
