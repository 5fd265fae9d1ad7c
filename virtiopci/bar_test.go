package virtiopci

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// "Available Buffer Notifications": each queue has a register, a multiple of 4 bytes from the start.
func TestNotify(t *testing.T) {
	const at = 3 * pageBytes
	r := newRig(t)
	r.put(at, 2, 0) // before the driver runs
	r.wantCalls()
	r.negotiate(FeatureVersion1)
	r.setUp(1)
	r.put(at+4, 2, 1)
	r.put(comStatus, 1, 15)
	r.dev.took()
	for _, c := range []struct {
		off   uint64
		n     int
		value uint64
		want  []string
	}{
		{4, 2, 1, []string{"notify 1"}},
		{4, 2, 0, []string{"notify 1"}}, // the address says which
		{4, 4, 1, []string{"notify 1"}},
		{0, 2, 1, nil}, // queue 0 is not enabled
		{4, 1, 1, nil}, {5, 2, 1, nil}, {6, 2, 1, nil}, {2, 4, 1, []string{"notify 1"}}, {3, 2, 1, nil},
		{0, 8, 0, []string{"notify 1"}}, {8, 2, 1, nil}, {0xffe, 2, 1, nil}, {7, 8, 1, nil},
	} {
		r.put(at+c.off, c.n, c.value)
		r.wantCalls(c.want...)
	}
	if got := r.get(at, 8); got != 0 {
		t.Errorf("the registers read %#x", got)
	}
	// One write notifies several queues.
	r.put(comQueueSelect, 2, 0)
	r.put(comQueueEnable, 2, 1)
	r.dev.took()
	r.put(at, 8, 0)
	r.wantCalls("notify 0", "notify 1")
	r.put(at, 6, 0)
	r.wantCalls("notify 0", "notify 1")
	r.dev.quiet = true
	value := le(0, 2)
	if n := testing.AllocsPerRun(100, func() { _ = r.WriteBAR(0, value, at+4) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// With NOTIFICATION_DATA a notification has 32 bits, and with NOTIF_CONFIG_DATA the value comes from
// queue_notif_config_data. The device is asked for neither.
func TestNotificationData(t *testing.T) {
	r := newRig(t, func(d *fakeDevice, _ *Options) { d.features |= FeatureNotificationData | FeatureNotifConfigData })
	r.negotiate(FeatureVersion1 | FeatureNotificationData | FeatureNotifConfigData)
	r.wantCalls("features 0x100000000")
	r.setUp(1)
	if got := r.get(comNotifConfigData, 2); got != 1 {
		t.Errorf("queue_notif_config_data %d", got)
	}
	r.put(comStatus, 1, 15)
	r.dev.took()
	r.put(3*pageBytes+4, 4, 1|0x1234<<16)
	r.wantCalls("notify 1")
}

// "ISR status capability": reading it clears it, and writes have no effect.
func TestISR(t *testing.T) {
	r := newRig(t)
	r.run(FeatureVersion1)
	r.ConfigChanged()
	r.put(pageBytes, 1, 0xff)
	r.get(pageBytes-1, 1)
	r.get(pageBytes+1, 8)
	if a, b := r.get(pageBytes, 4), r.get(pageBytes, 1); a != isrConfig || b != 0 {
		t.Errorf("it reads %#x, then %#x", a, b)
	}
	r.NeedsReset()
	if a, b := r.get(pageBytes-3, 4)>>24, r.get(pageBytes, 1); a != isrConfig || b != 0 {
		t.Errorf("it reads %#x, then %#x", a, b)
	}
}

// Device configuration is read and written in any pieces, and not beside it.
func TestDeviceConfiguration(t *testing.T) {
	const at = 2 * pageBytes
	r := newRig(t)
	for _, n := range []int{1, 2, 3, 4, 5, 8, 96} {
		got := make([]byte, 96)
		for off := 0; off < 96; off += n {
			if err := r.ReadBAR(0, got[off:min(off+n, 96)], uint64(at+off)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, r.dev.config) {
			t.Errorf("in pieces of %d: %x", n, got)
		}
	}
	if got := r.get(at+92, 8); got != uint64(binary.LittleEndian.Uint32(r.dev.config[92:])) {
		t.Errorf("across the end: %#x", got)
	}
	r.put(at+32, 1, 7)
	r.put(at+90, 8, 0x0706050403020100)
	r.put(at+96, 4, 1)
	r.wantCalls("config 07 at 32", "config 000102030405 at 90")
	if got := r.get(at+32, 1); got != 7 {
		t.Errorf("writeback reads %d", got)
	}
	// A read that reaches from one structure into the next.
	long := make([]byte, 2*pageBytes+200)
	if err := r.ReadBAR(0, long, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(long[at:at+96], r.dev.config) || long[comNumQueues] != 2 {
		t.Error("a long read")
	}
}

// "Common configuration structure layout": the generation is another one after the driver has read a
// value that has changed, whether or not the device has said so, and wraps.
func TestGeneration(t *testing.T) {
	r := newRig(t)
	gen := func() uint64 { return r.get(comGeneration, 1) }
	set := func(v byte) {
		r.dev.mu.Lock()
		defer r.dev.mu.Unlock()
		r.dev.config[0] = v
	}
	for i := range 600 {
		before := gen()
		if r.get(2*pageBytes, 4); gen() != before {
			t.Fatal("it changes although nothing has")
		}
		set(byte(2 + i%200))
		if gen() != before {
			t.Fatal("it changes before the driver has read")
		}
		// Any part that is read counts.
		if r.get(2*pageBytes+uint64(i%96), 1); gen() == before {
			t.Fatal("it does not change")
		}
	}
	// 256 changes between two reads are a change.
	before := gen()
	for i := range 256 {
		set(byte(i))
		r.ConfigChanged()
	}
	if r.get(2*pageBytes, 1); gen() == before {
		t.Error("256 changes are none")
	}
}

// PCI, "MSI-X Table and PBA Structure".
func TestMSIXTable(t *testing.T) {
	const at = 4 * pageBytes
	r := newRig(t)
	first := make([]byte, 3*16)
	if err := r.ReadBAR(0, first, at); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 3)
	if !bytes.Equal(first, want) {
		t.Errorf("%x", first)
	}
	for _, n := range []int{1, 2, 4, 8, 48} {
		r := newRig(t)
		ones := bytes.Repeat([]byte{0xff}, n)
		for off := 0; off < 48; off += n {
			if err := r.WriteBAR(0, ones, uint64(at+off)); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, 48)
		if err := r.ReadBAR(0, got, at); err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte{0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0}, 3)
		if !bytes.Equal(got, want) {
			t.Errorf("ones in pieces of %d: %x", n, got)
		}
		r.Reset()
		if err := r.ReadBAR(0, got, at); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, first) {
			t.Errorf("after a reset: %x", got)
		}
	}
	r.put(at+48, 8, ^uint64(0))
	r.put(5*pageBytes, 8, ^uint64(0))
	if a, b := r.get(at+48, 8), r.get(5*pageBytes, 8); a != 0 || b != 0 {
		t.Errorf("behind the table %#x, pending bits %#x", a, b)
	}
}
