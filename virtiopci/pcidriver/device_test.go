package pcidriver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtiopci"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// device is a block device that records the calls it gets.
type device struct {
	mu     sync.Mutex
	calls  []string
	refuse uint64 // features that it offers and does not accept
	config [96]byte
	broken error
	reads  int
	change int // so many reads of the configuration see another one
}

const offered = virtiopci.FeatureVersion1 | virtiopci.FeatureRingPacked | FeatureRingReset | FeatureNotifConfigData | driver.BlkFlush | driver.BlkZoned

func (d *device) call(format string, a ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, a...))
}

func (d *device) took() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := strings.Join(d.calls, ", ")
	d.calls = nil
	return s
}

func (d *device) Features() uint64 { return offered }
func (d *device) SetFeatures(f uint64) error {
	d.call("features %#x", f)
	if f&d.refuse != 0 {
		return errors.New("refused")
	}
	return nil
}
func (d *device) ReadConfig(dst []byte, off uint32) error {
	if d.reads++; d.reads <= d.change {
		d.config[0]++
	}
	copy(dst, d.config[off:])
	return nil
}
func (d *device) WriteConfig(src []byte, off uint32) error {
	d.call("config %x at %d", src, off)
	return nil
}
func (d *device) StartQueue(i int, q virtiopci.Queue) error {
	d.call("start %d %+v", i, q)
	return d.broken
}
func (d *device) StopQueue(i int)           { d.call("stop %d", i) }
func (d *device) SetVector(i int, v uint16) { d.call("vector %d %d", i, v) }
func (d *device) Notify(i int)              { d.call("notify %d", i) }
func (d *device) Reset()                    { d.call("reset") }

// found is a device behind a function, as Probe finds it: through its BAR, or through configuration
// space alone.
func found(t *testing.T, through bool) (*device, *virtiopci.Function, *Device) {
	t.Helper()
	dev := &device{}
	for i := range dev.config {
		dev.config[i] = byte(i)
	}
	f, err := virtiopci.New(dev, virtiopci.Options{Type: 2, Class: 0x018000, Queues: 3, ConfigBytes: len(dev.config), ResetWait: -1})
	if err != nil {
		t.Fatal(err)
	}
	d, err := Probe(f)
	if err != nil {
		t.Fatal(err)
	}
	if through {
		if d, err = Probe(d.ThroughConfig()); err != nil {
			t.Fatal(err)
		}
	}
	return dev, f, d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// "Device Initialization" and "Device Operation", as a driver does them.
func TestDevice(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("through configuration space %v", through), func(t *testing.T) {
			dev, f, d := found(t, through)
			want := func(calls string) {
				t.Helper()
				if got := dev.took(); got != calls {
					t.Fatalf("the device was called %q, not %q", got, calls)
				}
			}
			if d.Type != 2 || d.Vectors != 4 || d.NotifyMultiplier != 4 || d.Config.Length != 96 {
				t.Errorf("found %+v", d)
			}
			if n, err := d.BARBytes(0); err != nil || n != f.BARBytes() {
				t.Errorf("BAR 0 has %d bytes, %v", n, err)
			}
			if n, err := d.BARBytes(1); err != nil || n != 0 {
				t.Errorf("BAR 1 has %d bytes, %v", n, err)
			}
			must(t, d.EnableMSIX(true))
			must(t, d.Reset())
			want("reset")
			if got, err := d.Offered(); err != nil || got != offered {
				t.Errorf("offered %#x, %v", got, err)
			}
			must(t, d.Negotiate(offered&^virtiopci.FeatureRingPacked))
			want(fmt.Sprintf("features %#x", virtiopci.FeatureVersion1|driver.BlkFlush|driver.BlkZoned))
			if n, err := d.Queues(); err != nil || n != 3 {
				t.Errorf("%d queues, %v", n, err)
			}
			if n, err := d.QueueSize(3); err != nil || n != 0 {
				t.Errorf("queue 3 has %d, %v", n, err)
			}
			must(t, d.SetConfigVector(0))
			layout := driver.Layout{Size: 128, Desc: 0x123456789000, Avail: 0x123456789800, Used: 0x12345678a000}
			must(t, d.SetUpQueue(1, layout, 3))
			if l, on, err := d.QueueLayout(1); err != nil || !on || l != layout {
				t.Errorf("queue 1 is %+v, %v, %v", l, on, err)
			}
			want("")
			must(t, d.Start())
			want(fmt.Sprintf("start 1 {Size:128 Desc:%d Driver:%d Device:%d Vector:3}", layout.Desc, layout.Avail, layout.Used))
			must(t, d.Notify(1))
			want("notify 1")
			if err := d.Notify(0); err == nil {
				t.Error("a queue that is not set up is notified")
			}
			must(t, d.SetVector(1, NoVector))
			want("vector 1 65535")
			if err := d.SetVector(1, 4); !errors.Is(err, ErrVector) {
				t.Errorf("vector 4: %v", err)
			}
			dev.took()
			space := make([]byte, 96)
			must(t, d.ReadDeviceConfig(space, 0))
			if !bytes.Equal(space, dev.config[:]) {
				t.Errorf("configuration %x", space)
			}
			must(t, d.WriteDeviceConfig([]byte{1}, 32))
			want("config 01 at 32")
			f.ConfigChanged()
			if a, err := d.ReadISR(); err != nil || a != 2 {
				t.Errorf("ISR status %d, %v", a, err)
			}
			must(t, d.ResetQueue(1))
			want("stop 1")
			if err := d.Notify(1); err == nil {
				t.Error("a queue that was reset is notified")
			}
			must(t, d.SetUpQueue(1, layout, 0))
			dev.took()
			must(t, d.Reset())
			want("stop 1, reset")
		})
	}
}

func TestDeviceRefuses(t *testing.T) {
	dev, _, d := found(t, false)
	dev.refuse = driver.BlkFlush
	if err := d.Negotiate(virtiopci.FeatureVersion1 | driver.BlkFlush); !errors.Is(err, ErrFeatures) {
		t.Errorf("Negotiate: %v", err)
	}
	must(t, d.Reset())
	must(t, d.Negotiate(virtiopci.FeatureVersion1))
	if err := d.SetUpQueue(0, driver.Layout{Size: 512}, 0); err == nil {
		t.Error("a queue larger than there is")
	}
	if err := d.SetUpQueue(0, driver.Layout{Size: 16}, 9); !errors.Is(err, ErrVector) {
		t.Errorf("SetUpQueue with vector 9: %v", err)
	}
	dev.broken = errors.New("broken")
	must(t, d.SetUpQueue(0, driver.Layout{Size: 16}, 0))
	if err := d.Start(); err == nil {
		t.Error("it starts although its queue does not")
	}
}

// A configuration that changes while it is read is read again.
func TestConfigIsWhole(t *testing.T) {
	dev, _, d := found(t, false)
	dev.reads, dev.change = 0, 30
	var b [8]byte
	must(t, d.ReadDeviceConfig(b[:], 0))
	if dev.reads <= 30 {
		t.Errorf("%d reads", dev.reads)
	}
	if got := binary.LittleEndian.Uint64(b[:]); byte(got) != dev.config[0] {
		t.Errorf("%#x", got)
	}
	dev.reads, dev.change = 0, 1<<30
	if err := d.ReadDeviceConfig(b[:], 0); err == nil {
		t.Error("it changes again and again, and is read")
	}
}

// space is a configuration space of any bytes; what is behind it does not exist.
type space []byte

var errAbsent = errors.New("absent")

func (s space) ReadConfig(dst []byte, off uint64) error {
	if off+uint64(len(dst)) > uint64(len(s)) {
		return errAbsent
	}
	copy(dst, s[off:])
	return nil
}
func (s space) WriteConfig([]byte, uint64) error   { return errAbsent }
func (s space) ReadBAR(int, []byte, uint64) error  { return errAbsent }
func (s space) WriteBAR(int, []byte, uint64) error { return errAbsent }

// Devices that are none, or have structures that cannot be used.
func TestProbeRefuses(t *testing.T) {
	_, f, _ := found(t, false)
	good := make(space, 256)
	must(t, f.ReadConfig(good, 0))
	for name, c := range map[string]struct {
		change func(space) space
		err    error
	}{
		"good":              {func(s space) space { return s }, nil},
		"vendor":            {func(s space) space { s[0]++; return s }, ErrNotVirtio},
		"transitional":      {func(s space) space { s[2], s[3] = 0x01, 0x10; return s }, ErrNotVirtio},
		"no list":           {func(s space) space { s[6] = 0; return s }, ErrNotVirtio},
		"empty list":        {func(s space) space { s[0x34] = 0; return s }, ErrNotVirtio},
		"loop":              {func(s space) space { s[0x41] = 0x40; return s }, ErrNotVirtio},
		"reserved BAR":      {func(s space) space { s[0x4c+4] = 6; return s }, ErrNotVirtio},
		"reserved type":     {func(s space) space { s[0x70+3] = 7; return s }, ErrNotVirtio},
		"short common":      {func(s space) space { s[0x4c+12] = 55; return s }, nil},
		"no notification":   {func(s space) space { s[0x5c+3] = 0; return s }, ErrNotVirtio},
		"longer capability": {func(s space) space { s[0x4c+2] = 32; return s }, nil},
		"short space":       {func(s space) space { return s[:0x60] }, errAbsent},
		"no space":          {func(s space) space { return nil }, errAbsent},
	} {
		s := c.change(slices.Clone(good))
		_, err := Probe(s)
		switch {
		case name == "short common" && err != nil && strings.Contains(err.Error(), "55 bytes"):
		case name == "short common", c.err == nil && err != nil, c.err != nil && !errors.Is(err, c.err):
			t.Errorf("%s: %v", name, err)
		}
	}
	// A device without a configuration space of its own, and one without MSI-X.
	s := slices.Clone(good)
	s[0x80+3] = 7
	s[0x40] = 0x05
	d, err := Probe(s)
	must(t, err)
	if d.Config.Length != 0 || d.Vectors != 0 || d.EnableMSIX(true) == nil {
		t.Errorf("%+v", d)
	}
}
