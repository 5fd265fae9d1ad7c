package vfio

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/device"
	"github.com/zvhost/zvhost/internal/testlog"
	"github.com/zvhost/zvhost/vfiouser"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/transport"
	"github.com/zvhost/zvhost/virtiopci/pcidriver"
)

const (
	featureEventIdx uint64 = 1 << 29
	featureVersion1 uint64 = 1 << 32
	featureZoned    uint64 = 1 << 17
)

// zoned makes a device over a new image of 16 zones of 64 KiB.
func zoned(t *testing.T, queues int) *device.Device {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.zvh")
	if err := image.Create(path, zone.Geometry{CapacitySectors: 2048, ZoneSectors: 128}); err != nil {
		t.Fatal(err)
	}
	dk, err := backend.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log, _ := testlog.New()
	dev, err := device.New(dk, device.Options{Queues: queues, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(dev.Close(), dk.Close()); err != nil {
			t.Error(err)
		}
	})
	return dev
}

// request carries out a request on queue i, and waits for its interrupt. Its memory is that of
// slot.
func (r *rig) request(ring *driver.Ring, i, slot int, typ uint32, sector uint64, data []byte) (status byte, appended uint64) {
	r.t.Helper()
	at := uint64(dataAt + slot*0x2000)
	b := driver.Blk{Type: typ, Sector: sector, Scratch: at, Data: []driver.Buffer{{GuestAddr: at + 0x1000, Len: uint32(len(data))}}}
	mem, err := r.mem.Bytes(at+0x1000, uint64(len(data)))
	r.must(err)
	if typ != driver.TypeIn {
		copy(mem, data)
	}
	_, err = ring.AddBlk(&b, 0)
	r.must(err)
	if ring.Publish() {
		r.must(r.driver.Notify(i))
	}
	for {
		if _, ok := ring.Next(); ok {
			break
		}
		r.must(ring.Err())
		if !ring.EnableCalls() {
			r.interrupted(i)
		}
	}
	if typ == driver.TypeIn {
		copy(data, mem)
	}
	status, appended, err = ring.BlkResult(&b)
	r.must(err)
	return status, appended
}

// A driver finds the disk, and its requests on each queue are carried out and answered by
// interrupt; with split and packed rings, and again after a reset and for the next client.
func TestRequests(t *testing.T) {
	r := newRig(t, zoned(t, 3))
	i, err := r.client.Info()
	if err != nil || i.Regions != numRegions || i.IRQs != numIRQs {
		t.Errorf("%+v, %v", i, err)
	}
	for index := range i.Regions {
		g, err := r.client.Region(index)
		if want := index == regionBAR0 || index == regionConfig; err != nil || (g.Size > 0) != want {
			t.Errorf("region %d: %+v, %v", index, g, err)
		}
	}
	r.mapAll()
	sector := uint64(0)
	for n, features := range []uint64{featureVersion1 | featureZoned, featureVersion1 | featureZoned | featureEventIdx | featureRingPacked, featureVersion1 | featureZoned | featureEventIdx} {
		if n == 2 { // another client
			r.leave()
			r.connect()
			r.mapAll()
		}
		rings := r.start(3, features)
		for i, ring := range rings {
			for range 4 {
				want, got := make([]byte, 4096), make([]byte, 4096)
				_, _ = rand.Read(want)
				if status, at := r.request(ring, i, i, driver.TypeZoneAppend, sector/128*128, want); status != driver.StatusOK || at != sector {
					t.Fatalf("features %#x, queue %d: append: status %d, at %d instead of %d", features, i, status, at, sector)
				}
				if status, _ := r.request(ring, i, i, driver.TypeIn, sector, got); status != driver.StatusOK || !bytes.Equal(want, got) {
					t.Fatalf("features %#x, queue %d: read: status %d, the same data %t", features, i, status, bytes.Equal(want, got))
				}
				sector += 8
			}
		}
	}
	r.leave()
}

// A driver that does not know zones is refused, and may try again.
func TestDriverWithoutZones(t *testing.T) {
	r := newRig(t, zoned(t, 1))
	if err := r.driver.Negotiate(featureVersion1); !errors.Is(err, pcidriver.ErrFeatures) {
		t.Error(err)
	}
	r.mapAll()
	r.start(1, featureVersion1|featureZoned)
	r.leave()
}

// The client replaces the memory of rings that run, as QEMU does: it removes a map and adds the
// parts. A queue waits while its ring is in none of them. No request is lost or carried out twice:
// each append has an address of its own.
func TestMemoryWhileRunning(t *testing.T) {
	for _, packed := range []bool{false, true} {
		t.Run(fmt.Sprintf("packed %t", packed), func(t *testing.T) { testMemoryWhileRunning(t, packed) })
	}
}

func testMemoryWhileRunning(t *testing.T, packed bool) {
	r := newRig(t, zoned(t, 2))
	r.mapAll()
	features := featureVersion1 | featureZoned | featureEventIdx
	if packed {
		features |= featureRingPacked
	}
	rings := r.start(2, features)
	var done sync.WaitGroup
	var over atomic.Bool
	var appends atomic.Uint64
	done.Add(1)
	go func() { // the client's other messages are those of the requests below
		defer done.Done()
		for n := 0; !over.Load() || n < 5; n++ {
			if err := r.client.Unmap(memBase, memBytes); err != nil {
				t.Error(err)
				return
			}
			const first = 8 * ringBytes
			for _, part := range []struct{ at, size uint64 }{{0, first}, {first, memBytes - first}} {
				if err := r.client.Map(memBase+part.at, part.size, part.at, r.memfd); err != nil {
					t.Error(err)
				}
			}
			if err := r.client.UnmapAll(); err != nil {
				t.Error(err)
			}
			if err := r.client.Map(memBase, memBytes, 0, r.memfd); err != nil {
				t.Error(err)
			}
			if err := r.client.Map(0x1000_0000, 0x1000, 0, -1); err != nil { // no memory of the device's
				t.Error(err)
			}
			if err := r.client.Unmap(0x1000_0000, 0x1000); err != nil {
				t.Error(err)
			}
		}
	}()
	for n := range uint64(100) {
		i := int(n % 2)
		data := bytes.Repeat([]byte{byte(n)}, 512)
		if status, at := r.request(rings[i], i, i, driver.TypeZoneAppend, 0, data); status != driver.StatusOK || at != n {
			t.Errorf("append %d: status %d, at %d", n, status, at)
			break
		}
		appends.Add(1)
	}
	over.Store(true)
	done.Wait()
	for n := range appends.Load() {
		got := make([]byte, 512)
		if status, _ := r.request(rings[0], 0, 0, driver.TypeIn, n, got); status != driver.StatusOK || got[0] != byte(n) || got[511] != byte(n) {
			t.Fatalf("sector %d: status %d, %d", n, status, got[0])
		}
	}
	r.leave()
}

// A fakeDevice records what it is asked for.
type fakeDevice struct {
	transport.Device // what it does not have

	mu       sync.Mutex
	rings    map[int]transport.Ring
	diary    []string
	hold     chan struct{} // StopQueue waits for it; nil: it does not
	watching func() bool
	broken   atomic.Bool
	capacity atomic.Uint64
	noStart  error
	starts   int
}

func (d *fakeDevice) note(format string, args ...any) {
	d.diary = append(d.diary, fmt.Sprintf(format, args...))
}

func (d *fakeDevice) seen() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := strings.Join(d.diary, "; ")
	d.diary = nil
	return all
}

func (d *fakeDevice) ring(i int) transport.Ring {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rings[i]
}

func (d *fakeDevice) Features() uint64 { return featureVersion1 | featureEventIdx | featureRingPacked }

func (d *fakeDevice) SetFeatures(uint64) error { return nil }

func (d *fakeDevice) Queues() int { return 2 }

func (d *fakeDevice) ReadConfig(dst []byte, off uint32) error {
	clear(dst)
	if off == 0 && len(dst) > 0 {
		dst[0] = byte(d.capacity.Load())
	}
	return nil
}

func (d *fakeDevice) Watch(changed func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watching = changed
}

// change is a change of the configuration.
func (d *fakeDevice) change() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.watching != nil && d.watching()
}

func (d *fakeDevice) BeginRing(usedBefore bool) {
	if usedBefore {
		panic("no ring was used before")
	}
}

func (d *fakeDevice) StartQueue(i int, r transport.Ring) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.noStart != nil {
		return d.noStart
	}
	if _, on := d.rings[i]; on {
		panic(fmt.Sprintf("queue %d started twice", i))
	}
	if err := r.Check(); err != nil {
		panic(err)
	}
	d.note("start %d at %#x", i, r.Base)
	d.rings[i] = r
	d.starts++
	return nil
}

func (d *fakeDevice) StopQueue(i int, _ string) uint32 {
	d.mu.Lock()
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		<-hold
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r, on := d.rings[i]
	if !on {
		panic(fmt.Sprintf("queue %d does not run", i))
	}
	delete(d.rings, i)
	d.note("stop %d", i)
	return r.Base + 7
}

func (d *fakeDevice) Notify(i, call, err int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, on := d.rings[i]
	if !on || err != -1 {
		panic(fmt.Sprintf("queue %d is to notify with %d and %d", i, call, err))
	}
	r.Call = call
	d.rings[i] = r
}

func (d *fakeDevice) NeedsReset() bool { return d.broken.Load() }

func (d *fakeDevice) BeginFrontEnd() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note("next")
}

func (d *fakeDevice) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.rings) > 0 {
		panic("reset while a queue runs")
	}
	d.broken.Store(false)
	d.note("reset")
}

func newFake() *fakeDevice { return &fakeDevice{rings: map[int]transport.Ring{}} }

// Each queue notifies with the eventfd of its vector, whatever comes first, and an interrupt
// during an exchange is not lost.
func TestVectors(t *testing.T) {
	dev := newFake()
	r := newRig(t, dev)
	r.mapAll()
	r.start(2, featureVersion1)
	calls := func() [2]bool { return [2]bool{dev.ring(0).Call >= 0, dev.ring(1).Call >= 0} }
	sync := func() { r.must(r.driver.SetConfigVector(uint16(r.driver.Vectors - 1))) } // waits for a reply
	sync()
	if got := calls(); got != [2]bool{true, true} || dev.ring(0).Call == dev.ring(1).Call {
		t.Errorf("%v %d %d", got, dev.ring(0).Call, dev.ring(1).Call)
	}
	r.must(r.client.SetIRQs(irqMSIX, vfiouser.IRQDataEventfd|vfiouser.IRQTrigger, 0, 1, nil))
	if got := calls(); got != [2]bool{false, true} {
		t.Error(got)
	}
	if n := r.count(0) + r.count(1); n != 0 {
		t.Errorf("%d interrupts", n)
	}
	r.must(r.client.SetEventfds(irqMSIX, 0, r.fds[0]))
	if got := calls(); got != [2]bool{true, true} {
		t.Error(got)
	}
	if r.count(0) != 1 || r.count(1) != 0 { // what may have happened meanwhile
		t.Error("vector 0 was not signalled once")
	}
	r.must(r.driver.SetVector(0, pcidriver.NoVector))
	sync()
	if got := calls(); got != [2]bool{false, true} {
		t.Error(got)
	}
	r.must(r.driver.SetVector(0, 1))
	sync()
	if got := calls(); got != [2]bool{true, true} || dev.ring(0).Call != dev.ring(1).Call {
		t.Error(got)
	}
	r.must(r.client.DisableIRQs(irqMSIX))
	if got := calls(); got != [2]bool{false, false} {
		t.Error(got)
	}
	r.leave()
	if got := dev.seen(); got != "reset; start 0 at 0x0; start 1 at 0x0; stop 0; stop 1; reset; next" {
		t.Error(got)
	}
}

// A change of the configuration interrupts, and so does the need of a reset; one that comes while
// the vector has no eventfd does when it gets one.
func TestConfigInterrupt(t *testing.T) {
	dev := newFake()
	r := newRig(t, dev)
	if dev.change() {
		t.Error("a driver that does not run was notified")
	}
	r.mapAll()
	r.start(1, featureVersion1)
	last := r.driver.Vectors - 1
	if n := r.count(last); n != 0 { // the driver has reset the device since that change
		t.Errorf("%d interrupts", n)
	}
	before, err := r.driver.Generation()
	r.must(err)
	dev.capacity.Store(9)
	if !dev.change() {
		t.Error("the driver was not notified")
	}
	r.interrupted(last)
	var b [1]byte
	r.must(r.driver.ReadDeviceConfig(b[:], 0))
	after, err := r.driver.Generation()
	r.must(err)
	if b[0] != 9 || before == after {
		t.Errorf("capacity %d, generation %d and %d", b[0], before, after)
	}
	r.must(r.client.SetIRQs(irqMSIX, vfiouser.IRQDataEventfd|vfiouser.IRQTrigger, uint32(last), 1, nil))
	dev.broken.Store(true)
	dev.change()
	if n := r.count(last); n != 0 {
		t.Errorf("%d interrupts without an eventfd", n)
	}
	r.must(r.client.SetEventfds(irqMSIX, uint32(last), r.fds[last]))
	r.interrupted(last)
	if s, err := r.driver.Status(); err != nil || s&pcidriver.StatusNeedsReset == 0 {
		t.Errorf("status %#x, %v", s, err)
	}
	r.start(1, featureVersion1)
	if s, err := r.driver.Status(); err != nil || s&pcidriver.StatusNeedsReset != 0 {
		t.Errorf("status %#x after a reset, %v", s, err)
	}
	r.leave()
	if dev.change() {
		t.Error("a client that has left was notified")
	}
}

// A reset that takes long does not delay its reply: the client gets an error, the driver sees in
// the status when it has ended, and the memory stays mapped until then.
func TestSlowReset(t *testing.T) {
	dev := newFake()
	r := newRig(t, dev)
	r.mapAll()
	r.start(2, featureVersion1)
	hold := make(chan struct{})
	dev.mu.Lock()
	dev.hold = hold
	dev.mu.Unlock()
	if err := r.client.Reset(); !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	if s, err := r.driver.Status(); err != nil || s == 0 {
		t.Errorf("status %#x, %v", s, err)
	}
	dev.mu.Lock()
	dev.hold = nil
	dev.mu.Unlock()
	close(hold)
	r.must(r.driver.Reset()) // waits for it
	r.must(r.client.Reset())
	dev.seen()
	r.start(1, featureVersion1)
	r.leave()
	if got := dev.seen(); got != "reset; start 0 at 0x0; stop 0; reset; next" {
		t.Error(got)
	}
}

// What a driver or client does wrong sets DEVICE_NEEDS_RESET, and a reset makes good of it.
func TestQueuesThatCannotStart(t *testing.T) {
	setUp := func(t *testing.T, dev *fakeDevice, prepare func(r *rig), move uint64) {
		r := newRig(t, dev)
		prepare(r)
		r.must(r.driver.Reset())
		r.must(r.driver.Negotiate(featureVersion1))
		ring, err := driver.NewRing(r.mem, memBase, ringSize, 0)
		r.must(err)
		l := ring.Config()
		l.Avail += move
		r.must(r.driver.SetUpQueue(0, l, 0))
		if err := r.driver.Start(); err == nil {
			t.Error("the device has started")
		}
		if s, err := r.driver.Status(); err != nil || s&pcidriver.StatusNeedsReset == 0 {
			t.Errorf("status %#x, %v", s, err)
		}
		if !strings.Contains(r.logged(), "queue 0 cannot start") {
			t.Errorf("%q is logged", r.logged())
		}
		dev.mu.Lock()
		dev.noStart = nil
		dev.mu.Unlock()
		r.must(r.client.UnmapAll())
		r.mapAll()
		r.start(1, featureVersion1)
		r.leave()
	}
	all := func(r *rig) { r.mapAll() }
	t.Run("no memory", func(t *testing.T) { setUp(t, newFake(), func(*rig) {}, 0) })
	t.Run("memory without a descriptor", func(t *testing.T) {
		setUp(t, newFake(), func(r *rig) { r.must(r.client.Map(memBase, memBytes, 0, -1)) }, 0)
	})
	t.Run("memory that is read-only", func(t *testing.T) {
		setUp(t, newFake(), func(r *rig) {
			m := vfiouser.Mapping{Argsz: 32, Flags: vfiouser.MapRead, Address: memBase, Size: memBytes}
			_, err := r.client.Call(vfiouser.DMAMap, m.Append(nil), r.memfd)
			r.must(err)
		}, 0)
	})
	t.Run("outside", func(t *testing.T) { setUp(t, newFake(), all, 1<<40) })
	t.Run("not aligned", func(t *testing.T) { setUp(t, newFake(), all, 1) })
	t.Run("the device does not", func(t *testing.T) {
		dev := newFake()
		dev.noStart = errors.New("no worker can be made")
		setUp(t, dev, all, 0)
	})
}

// A queue whose device cannot continue after its memory has changed needs a reset.
func TestQueueThatCannotContinue(t *testing.T) {
	dev := newFake()
	r := newRig(t, dev)
	r.mapAll()
	r.start(1, featureVersion1)
	dev.mu.Lock()
	dev.noStart = errors.New("no worker can be made")
	dev.mu.Unlock()
	r.must(r.client.Map(0x1000_0000, 0x1000, 0, r.memfd))
	r.interrupted(r.driver.Vectors - 1)
	if s, err := r.driver.Status(); err != nil || s&pcidriver.StatusNeedsReset == 0 {
		t.Errorf("status %#x, %v", s, err)
	}
	r.leave()
}

// A queue continues where it has stopped, when its ring is in memory again.
func TestQueueWaitsForItsMemory(t *testing.T) {
	for _, c := range []struct {
		features    uint64
		first, next string
	}{{featureVersion1, "0x0", "0x7"}, {featureVersion1 | featureRingPacked, "0x80008000", "0x80008007"}} {
		dev := newFake()
		r := newRig(t, dev)
		r.mapAll()
		r.start(1, c.features)
		r.must(r.client.Unmap(memBase, memBytes))
		if got, want := dev.seen(), "reset; start 0 at "+c.first+"; begin 0; stop 0"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		r.must(r.client.Map(memBase, 0x1000, 0, r.memfd)) // not all of the ring
		if got := dev.seen(); got != "" {
			t.Error(got)
		}
		r.must(r.driver.SetVector(0, 1))
		r.must(r.driver.Notify(0))
		r.must(r.client.Unmap(memBase, 0x1000))
		r.mapAll()
		if got, want := dev.seen(), "start 0 at "+c.next; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if dev.ring(0).Call < 0 {
			t.Error("it notifies nobody")
		}
		r.leave()
	}
}

// Memory that cannot be mapped gets an error, and changes nothing.
func TestMapRefused(t *testing.T) {
	dev := newFake()
	r := newRig(t, dev)
	r.mapAll()
	r.start(1, featureVersion1)
	dev.seen()
	for _, c := range []struct{ at, size, offset uint64 }{
		{0x1000_0000, memBytes + 0x1000, 0}, {0x1000_0000, 0x1000, memBytes}, {1<<64 - 0x1000, 0x1000, 0},
	} {
		if err := r.client.Map(c.at, c.size, c.offset, r.memfd); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%#x: %v", c.at, err)
		}
	}
	sealed, err := unix.MemfdCreate("sealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	r.must(err)
	r.must(unix.Ftruncate(sealed, 0x1000))
	_, err = unix.FcntlInt(uintptr(sealed), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
	r.must(err)
	if err := r.client.Map(0x1000_0000, 0x1000, 0, sealed); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a file that cannot be written: %v", err)
	}
	r.must(unix.Close(sealed))
	if got := dev.seen(); got != "" {
		t.Error(got)
	}
	r.leave()
}

// A notification reaches the queue's eventfd, and costs no allocation but the message's.
func TestNotify(t *testing.T) {
	dev := newFake()
	r := newRig(t, dev)
	r.mapAll()
	r.start(2, featureVersion1)
	r.must(r.driver.Notify(1))
	r.must(r.driver.Notify(1))
	_, err := r.driver.Status() // after them
	r.must(err)
	var b [8]byte
	if _, err := unix.Read(dev.ring(1).Kick, b[:]); err != nil || b[0] != 2 {
		t.Errorf("%d notifications, %v", b[0], err)
	}
	if _, err := unix.Read(dev.ring(0).Kick, b[:]); !errors.Is(err, unix.EAGAIN) {
		t.Error(err)
	}
	r.leave()
}
