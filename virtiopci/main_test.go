package virtiopci

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// testOptions are those of a block device with two queues.
func testOptions() Options {
	return Options{Type: 2, Class: 0x018000, Queues: 2, QueueSize: 256, ConfigBytes: 96, ResetWait: -1}
}

// A fakeDevice records what the function asks of it, and panics when the function breaks the rules
// of Device.
type fakeDevice struct {
	features   uint64
	refuse     error // what SetFeatures returns
	startError error
	hold       chan struct{} // StopQueue waits until it is closed, if it is not nil
	quiet      bool          // Notify is not recorded

	mu      sync.Mutex
	config  []byte
	calls   []string
	running map[int]Queue
	set     bool
}

func newFake() *fakeDevice {
	d := &fakeDevice{
		features: FeatureVersion1 | FeatureRingPacked | 1<<5 | 1<<9, running: map[int]Queue{},
		config: make([]byte, 96),
	}
	for i := range d.config {
		d.config[i] = byte(i + 1)
	}
	return d
}

func (d *fakeDevice) call(format string, args ...any) {
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
}

// took returns what was called since the last time.
func (d *fakeDevice) took() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.calls
	d.calls = nil
	return c
}

func (d *fakeDevice) Features() uint64 { return d.features }

func (d *fakeDevice) SetFeatures(f uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.running) != 0 || d.set || f&FeatureVersion1 == 0 || f&^d.features != 0 || f&ownFeatures != 0 {
		panic(fmt.Sprintf("SetFeatures(%#x)", f))
	}
	d.call("features %#x", f)
	d.set = d.refuse == nil
	return d.refuse
}

func (d *fakeDevice) ReadConfig(dst []byte, off uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if int(off)+len(dst) > len(d.config) || len(dst) == 0 {
		panic(fmt.Sprintf("ReadConfig of %d at %d", len(dst), off))
	}
	copy(dst, d.config[off:])
	return nil
}

func (d *fakeDevice) WriteConfig(src []byte, off uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if int(off)+len(src) > len(d.config) || len(src) == 0 {
		panic(fmt.Sprintf("WriteConfig of %d at %d", len(src), off))
	}
	d.call("config %x at %d", src, off)
	if off == 32 { // writeback
		d.config[32] = src[0]
		return nil
	}
	return errors.New("read-only")
}

func (d *fakeDevice) StartQueue(i int, q Queue) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.running[i]; ok || !d.set || q.Size == 0 {
		panic(fmt.Sprintf("StartQueue(%d, %+v)", i, q))
	}
	d.call("start %d %+v", i, q)
	if d.startError != nil {
		return d.startError
	}
	d.running[i] = q
	return nil
}

func (d *fakeDevice) StopQueue(i int) {
	if d.hold != nil {
		<-d.hold
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.running[i]; !ok {
		panic(fmt.Sprintf("StopQueue(%d)", i))
	}
	d.call("stop %d", i)
	delete(d.running, i)
}

func (d *fakeDevice) SetVector(i int, v uint16) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.running[i]; !ok {
		panic(fmt.Sprintf("SetVector(%d)", i))
	}
	d.call("vector %d %d", i, v)
}

func (d *fakeDevice) Notify(i int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.running[i]; !ok {
		panic(fmt.Sprintf("Notify(%d)", i))
	}
	if !d.quiet {
		d.call("notify %d", i)
	}
}

func (d *fakeDevice) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.running) != 0 {
		panic("Reset with queues that run")
	}
	d.call("reset")
	d.set = false
}

// A rig is a function with a fake device, and accesses that must succeed.
type rig struct {
	t   testing.TB
	dev *fakeDevice
	*Function
	mu     sync.Mutex
	vector []uint16 // interrupts
}

func newRig(t testing.TB, change ...func(*fakeDevice, *Options)) *rig {
	t.Helper()
	r := &rig{t: t, dev: newFake()}
	o := testOptions()
	o.Interrupt = func(v uint16) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.vector = append(r.vector, v)
	}
	for _, c := range change {
		c(r.dev, &o)
	}
	f, err := New(r.dev, o)
	if err != nil {
		t.Fatal(err)
	}
	r.Function = f
	return r
}

// interrupts returns those since the last time.
func (r *rig) interrupts() []uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.vector
	r.vector = nil
	return v
}

// get reads n bytes of BAR 0 as a number.
func (r *rig) get(off uint64, n int) uint64 {
	r.t.Helper()
	b := make([]byte, 8)
	if err := r.ReadBAR(0, b[:n], off); err != nil {
		r.t.Fatalf("read %d at %#x: %v", n, off, err)
	}
	return binary.LittleEndian.Uint64(b)
}

// put writes the lower n bytes of v into BAR 0.
func (r *rig) put(off uint64, n int, v uint64) {
	r.t.Helper()
	if err := r.WriteBAR(0, binary.LittleEndian.AppendUint64(nil, v)[:n], off); err != nil {
		r.t.Fatalf("write %d at %#x: %v", n, off, err)
	}
}

func (r *rig) conf(off uint64, n int) uint64 {
	r.t.Helper()
	b := make([]byte, 8)
	if err := r.ReadConfig(b[:n], off); err != nil {
		r.t.Fatalf("read %d of configuration space at %#x: %v", n, off, err)
	}
	return binary.LittleEndian.Uint64(b)
}

func (r *rig) setConf(off uint64, n int, v uint64) {
	r.t.Helper()
	if err := r.WriteConfig(binary.LittleEndian.AppendUint64(nil, v)[:n], off); err != nil {
		r.t.Fatalf("write %d of configuration space at %#x: %v", n, off, err)
	}
}

func (r *rig) wantStatus(want uint8) {
	r.t.Helper()
	if got := r.get(comStatus, 1); got != uint64(want) {
		r.t.Fatalf("status %#x, not %#x", got, want)
	}
}

func (r *rig) wantCalls(want ...string) {
	r.t.Helper()
	if got := r.dev.took(); !slices.Equal(got, want) {
		r.t.Fatalf("the device was called %q, not %q", got, want)
	}
}

// negotiate accepts features.
func (r *rig) negotiate(features uint64) {
	r.t.Helper()
	r.put(comStatus, 1, 1)
	r.put(comStatus, 1, 3)
	for i := range uint64(2) {
		r.put(comDriverFeatureSelect, 4, i)
		r.put(comDriverFeature, 4, features>>(32*i))
	}
	r.put(comStatus, 1, 11)
}

// setUp enables queue i with addresses that tell queues apart.
func (r *rig) setUp(i int) {
	r.t.Helper()
	at := uint64(i+1) << 32
	r.put(comQueueSelect, 2, uint64(i))
	r.put(comQueueVector, 2, uint64(i+1))
	r.put(comQueueDesc, 8, at|0x1000)
	r.put(comQueueDriver, 8, at|0x2000)
	r.put(comQueueDevice, 8, at|0x3000)
	r.put(comQueueEnable, 2, 1)
}

// run starts both queues, with configuration changes on vector 0.
func (r *rig) run(features uint64) {
	r.t.Helper()
	r.negotiate(features)
	r.put(comConfigVector, 2, 0)
	r.setUp(0)
	r.setUp(1)
	r.put(comStatus, 1, 15)
	r.wantStatus(15)
	r.dev.took()
}

// await waits until ok.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("no %s within a minute", what)
		}
	}
}

// image is all that can be read without an effect.
func (r *rig) image() []byte {
	r.t.Helper()
	c := r.common()
	return bytes.Join([][]byte{c[:], r.config[:], r.table, {byte(r.isr.Load())}}, nil)
}
