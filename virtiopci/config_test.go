package virtiopci

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// goldenConfig is a zoned block device with two queues, as a driver finds it after power-on.
const goldenConfig = `
f41a4210 00001000 01008001 00000000
00000000 00000000 00000000 00000000
00000000 00000000 00000000 f41a4210
00000000 40000000 00000000 00000000
114c0200 00400000 00500000 095c1001
00000000 00000000 3c000000 09701402
00000000 00300000 08000000 04000000
09801003 00000000 00100000 01000000
09901004 00000000 00200000 60000000
09001405 00000000 00000000 00000000
00000000`

func golden(t *testing.T) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(goldenConfig), ""))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, ConfigBytes-len(b))...)
}

// "PCI Device Discovery", "Virtio Structure PCI Capabilities", and the type 0 header of PCI. An
// extended configuration space reads as 0: it has no capability.
func TestConfigGolden(t *testing.T) {
	r := newRig(t)
	got := make([]byte, ConfigBytes)
	if err := r.ReadConfig(got, 0); err != nil {
		t.Fatal(err)
	}
	if want := golden(t); !bytes.Equal(got, want) {
		t.Errorf("configuration space is\n%snot\n%s", hex.Dump(got[:configBytes]), hex.Dump(want[:configBytes]))
	}
	// The same in other pieces.
	for _, n := range []int{1, 2, 3, 4, 8} {
		piece := make([]byte, ConfigBytes)
		for at := 0; at < len(piece); at += n {
			if err := r.ReadConfig(piece[at:min(at+n, len(piece))], uint64(at)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(piece, got) {
			t.Errorf("read in pieces of %d bytes it differs", n)
		}
	}
}

// Of all bits only those change that PCI lets a driver write, in each width.
func TestConfigWritable(t *testing.T) {
	for _, n := range []int{1, 2, 4, 8, 256} {
		r := newRig(t)
		ones := bytes.Repeat([]byte{0xff}, n)
		for at := 0; at < ConfigBytes; at += n {
			if err := r.WriteConfig(ones, uint64(at)); err != nil {
				t.Fatal(err)
			}
		}
		want := golden(t)
		for at, v := range map[int]string{
			regCommand: "4605", regCacheLine: "ffff", regBAR0: "0080ffff", regInterruptLine: "ff",
			capMSIX + 2: "02c0", windowBAR: "ff", windowOffset: "ffffffffffffffff", windowData: "00000000",
		} {
			b, err := hex.DecodeString(v)
			if err != nil {
				t.Fatal(err)
			}
			copy(want[at:], b)
		}
		got := make([]byte, ConfigBytes)
		if err := r.ReadConfig(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("after ones in pieces of %d bytes:\n%snot\n%s", n, hex.Dump(got[:configBytes]), hex.Dump(want[:configBytes]))
		}
		r.wantCalls()
	}
}

// PCI, "Base Address Registers": a driver writes ones and reads the size.
func TestBARSizing(t *testing.T) {
	for _, c := range []struct {
		queues, vectors int
		want            uint64
	}{{1, 2, 0x8000}, {2, 0, 0x8000}, {256, 257, 0x8000}, {MaxQueues, 0, 0x10000}, {1, MaxVectors, 0x10000}} {
		r := newRig(t, func(_ *fakeDevice, o *Options) { o.Queues, o.Vectors = c.queues, c.vectors })
		r.setConf(regBAR0, 4, 0xffffffff)
		got := uint64(-uint32(r.conf(regBAR0, 4)))
		if got != c.want || r.BARBytes() != got {
			t.Errorf("%d queues, %d vectors: BAR of %#x, %#x bytes, not %#x", c.queues, c.vectors, got, r.BARBytes(), c.want)
		}
		r.setConf(regBAR0, 4, 0xfebf1234)
		if got := r.conf(regBAR0, 4); got != 0xfebf1234&-c.want&0xffffffff {
			t.Errorf("an address is stored as %#x", got)
		}
		for bar := uint64(1); bar < 6; bar++ {
			r.setConf(regBAR0+4*bar, 4, 0xffffffff)
			if got := r.conf(regBAR0+4*bar, 4); got != 0 {
				t.Errorf("BAR %d reads %#x", bar, got)
			}
		}
		// The structures lie inside, one behind the other, the table in pages of its own.
		end := uint64(0)
		for _, a := range []area{r.area.common, r.area.isr, r.area.device, r.area.notify, r.area.table, r.area.pending} {
			if uint64(a.off) < end || a.off%pageBytes != 0 || a.size == 0 {
				t.Errorf("%d queues: %+v overlaps, or is not at a page", c.queues, r.area)
			}
			end = uint64(a.off) + uint64(a.size)
		}
		if end > r.BARBytes() {
			t.Errorf("%d queues: %+v", c.queues, r.area)
		}
	}
}

// A device type without configuration space has no capability of it.
func TestNoDeviceConfiguration(t *testing.T) {
	r := newRig(t, func(d *fakeDevice, o *Options) { d.config, o.ConfigBytes = nil, 0 })
	for at := r.conf(regCapabilities, 1); at != 0; at = r.conf(at+1, 1) {
		if r.conf(at, 1) == capIDVendor && r.conf(at+3, 1) == typeDevice {
			t.Errorf("a device configuration capability at %#x", at)
		}
	}
	if v := r.get(2*pageBytes, 8); v != 0 {
		t.Errorf("its place reads %#x", v)
	}
	r.put(2*pageBytes, 8, 1)
	r.wantCalls()
}

// Options and the class code are shown; what cannot be shown is refused.
func TestOptions(t *testing.T) {
	r := newRig(t, func(_ *fakeDevice, o *Options) {
		o.Type, o.Class, o.SubsystemVendor, o.Subsystem, o.Vectors = 25, 0x010203, 0x1234, 0x5678, 7
	})
	for _, c := range []struct {
		off  uint64
		n    int
		want uint64
	}{{regDevice, 2, 0x1059}, {regRevision, 4, 0x01020301}, {regSubsysVendor, 4, 0x56781234}, {capMSIX + 2, 2, 6}} {
		if got := r.conf(c.off, c.n); got != c.want {
			t.Errorf("%d bytes at %#x: %#x, not %#x", c.n, c.off, got, c.want)
		}
	}
	if r.Vectors() != 7 {
		t.Error(r.Vectors())
	}
	for name, change := range map[string]func(*fakeDevice, *Options){
		"type 0":           func(_ *fakeDevice, o *Options) { o.Type = 0 },
		"type 64":          func(_ *fakeDevice, o *Options) { o.Type = 64 },
		"class":            func(_ *fakeDevice, o *Options) { o.Class = 1 << 24 },
		"no queue":         func(_ *fakeDevice, o *Options) { o.Queues = 0 },
		"queues":           func(_ *fakeDevice, o *Options) { o.Queues = MaxQueues + 1 },
		"queue size":       func(_ *fakeDevice, o *Options) { o.QueueSize = 255 },
		"large queue":      func(_ *fakeDevice, o *Options) { o.QueueSize = 65535 },
		"config":           func(_ *fakeDevice, o *Options) { o.ConfigBytes = MaxConfigBytes + 1 },
		"less than none":   func(_ *fakeDevice, o *Options) { o.ConfigBytes = -1 },
		"vectors":          func(_ *fakeDevice, o *Options) { o.Vectors = MaxVectors + 1 },
		"negative vectors": func(_ *fakeDevice, o *Options) { o.Vectors = -1 },
		"VERSION_1":        func(d *fakeDevice, _ *Options) { d.features = 1 << 5 },
	} {
		d, o := newFake(), testOptions()
		change(d, &o)
		if _, err := New(d, o); err == nil || !strings.HasPrefix(err.Error(), "virtiopci: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What does not lie in a space is an error, and changes nothing.
func TestRanges(t *testing.T) {
	r := newRig(t)
	before := r.image()
	b := make([]byte, 8)
	for _, c := range []struct {
		n   int
		off uint64
	}{{1, ConfigBytes}, {8, ConfigBytes - 7}, {1, ^uint64(0)}, {8, ^uint64(0) - 3}} {
		if err := r.ReadConfig(b[:c.n], c.off); !errors.Is(err, ErrRange) {
			t.Errorf("read %d of configuration space at %#x: %v", c.n, c.off, err)
		}
		if err := r.WriteConfig(b[:c.n], c.off); !errors.Is(err, ErrRange) {
			t.Errorf("write %d of configuration space at %#x: %v", c.n, c.off, err)
		}
	}
	end := r.BARBytes()
	for _, c := range []struct {
		bar, n int
		off    uint64
	}{{0, 1, end}, {0, 8, end - 7}, {0, 1, ^uint64(0)}, {0, 8, ^uint64(0) - 3}, {1, 1, 0}, {-1, 1, 0}, {6, 4, 0}} {
		if err := r.ReadBAR(c.bar, b[:c.n], c.off); !errors.Is(err, ErrRange) {
			t.Errorf("read %d of BAR %d at %#x: %v", c.n, c.bar, c.off, err)
		}
		if err := r.WriteBAR(c.bar, b[:c.n], c.off); !errors.Is(err, ErrRange) {
			t.Errorf("write %d of BAR %d at %#x: %v", c.n, c.bar, c.off, err)
		}
	}
	if !bytes.Equal(r.image(), before) {
		t.Error("registers changed")
	}
	for _, off := range []uint64{0, end} {
		if err := errors.Join(r.ReadBAR(0, nil, off), r.WriteBAR(0, nil, off)); err != nil {
			t.Error(err)
		}
	}
	r.wantCalls()
}

// "PCI configuration access capability": each structure can be reached through it.
func TestWindow(t *testing.T) {
	r := newRig(t)
	aim := func(bar, off, n uint64) {
		r.setConf(windowBAR, 1, bar)
		r.setConf(windowOffset, 4, off)
		r.setConf(windowLength, 4, n)
	}
	aim(0, comNumQueues, 2)
	if got := r.conf(windowData, 4); got != 2 {
		t.Errorf("num_queues reads %#x", got)
	}
	aim(0, 2*pageBytes+4, 4)
	if got := r.conf(windowData, 4); got != 0x08070605 {
		t.Errorf("device configuration reads %#x", got)
	}
	aim(0, comStatus, 1)
	r.setConf(windowData, 4, 0xffff01) // one byte is used
	r.wantStatus(1)
	// Reset, run, and notify through the window only.
	r.run(FeatureVersion1)
	aim(0, 3*pageBytes+4, 2)
	r.setConf(windowData, 2, 1)
	r.wantCalls("notify 1")
	aim(0, comStatus, 1)
	r.setConf(windowData, 1, 0)
	r.Wait()
	r.wantCalls("stop 0", "stop 1", "reset")
	// Reading ISR status clears it.
	r.isr.Store(isrConfig)
	aim(0, pageBytes, 1)
	if a, b := r.conf(windowData, 1), r.conf(windowData, 1); a != 2 || b != 0 {
		t.Errorf("ISR status reads %d, then %d", a, b)
	}
	// The data is accessed, not the registers beside it.
	r.isr.Store(isrConfig)
	r.conf(windowOffset, 4)
	if r.isr.Load() == 0 {
		t.Error("reading the capability has read ISR status")
	}
	// What is not aligned, of another length, in another BAR or in no structure is not accessed.
	for _, c := range []struct{ bar, off, n uint64 }{
		{1, comStatus, 1}, {0, comStatus, 0}, {0, comStatus, 3}, {0, comStatus, 8}, {0, comGeneration, 2},
		{0, comNumQueues, 4}, {0, 4 * pageBytes, 4}, {0, 60, 1}, {0, 0x7fff, 1}, {0, 0xffffffff, 1}, {0, 0xfffffffc, 4}, {0, comStatus, 1 << 31},
	} {
		before := r.common()
		aim(c.bar, c.off, c.n)
		r.setConf(windowData, 4, 0xffffffff)
		if got := r.conf(windowData, 4); got != 0 {
			t.Errorf("%+v reads %#x", c, got)
		}
		if r.common() != before {
			t.Errorf("%+v writes", c)
		}
	}
	r.wantCalls()
}

// "ISR status capability": the Interrupt Status bit, while MSI-X is disabled.
func TestInterruptStatus(t *testing.T) {
	r := newRig(t)
	r.run(FeatureVersion1)
	r.ConfigChanged()
	if got := r.conf(regStatus, 2); got != statusCapabilities|statusInterrupt {
		t.Errorf("PCI status %#x", got)
	}
	r.setConf(capMSIX+2, 2, msixEnable)
	if got := r.conf(regStatus, 2); got != statusCapabilities {
		t.Errorf("PCI status %#x with MSI-X", got)
	}
	r.setConf(capMSIX+2, 2, 0)
	if got := r.get(pageBytes, 1); got != isrConfig {
		t.Errorf("ISR status %#x", got)
	}
	if got := r.conf(regStatus, 2); got != statusCapabilities {
		t.Errorf("PCI status %#x after ISR status was read", got)
	}
	if pin := r.conf(0x3d, 1); pin != 0 {
		t.Errorf("interrupt pin %d", pin)
	}
}

func le(v uint64, n int) []byte { return binary.LittleEndian.AppendUint64(nil, v)[:n] }
