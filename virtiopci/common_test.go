package virtiopci

import (
	"fmt"
	"testing"
)

// A register of the common configuration structure, from the table of "Common configuration
// structure layout", not from the code. write is what is written into it after a reset, want what
// it reads then; a field that cannot be written has want as it was.
type register struct {
	name       string
	off, n     uint64
	first      uint64 // after a reset
	write      uint64
	want       uint64
	alsoStatus uint8
}

var registers = []register{
	{"device_feature_select", 0, 4, 0, 0xfffffffe, 0xfffffffe, 0},
	{"device_feature", 4, 4, 1<<5 | 1<<9, 0xffffffff, 1<<5 | 1<<9, 0},
	{"driver_feature_select", 8, 4, 0, 0xfffffffe, 0xfffffffe, 0},
	{"driver_feature", 12, 4, 0, 1 << 5, 1 << 5, 0},
	{"config_msix_vector", 16, 2, NoVector, 2, 2, 0},
	{"num_queues", 18, 2, 2, 0xffff, 2, 0},
	{"device_status", 20, 1, 0, 3, 3, 0},
	{"config_generation", 21, 1, 0, 0xff, 0, 0},
	{"queue_select", 22, 2, 0, 1, 1, 0},
	{"queue_size", 24, 2, 256, 128, 128, 0},
	{"queue_msix_vector", 26, 2, NoVector, 1, 1, 0},
	{"queue_enable", 28, 2, 0, 1, 1, 0},
	{"queue_notify_off", 30, 2, 0, 0xffff, 0, 0},
	{"queue_desc low", 32, 4, 0, 0x12345678, 0x12345678, 0},
	{"queue_desc high", 36, 4, 0, 0x9abcdef0, 0x9abcdef0, 0},
	{"queue_driver low", 40, 4, 0, 0x12345678, 0x12345678, 0},
	{"queue_driver high", 44, 4, 0, 0x9abcdef0, 0x9abcdef0, 0},
	{"queue_device low", 48, 4, 0, 0x12345678, 0x12345678, 0},
	{"queue_device high", 52, 4, 0, 0x9abcdef0, 0x9abcdef0, 0},
	{"queue_notif_config_data", 56, 2, 0, 0xffff, 0, 0}, // not negotiated
	{"queue_reset", 58, 2, 0, 1, 0, 0},                  // not negotiated
}

// Each register, at its natural width and at each other one: a read returns the bytes, a write acts
// on what it covers as a whole.
func TestRegisters(t *testing.T) {
	for _, g := range registers {
		t.Run(g.name, func(t *testing.T) {
			r := newRig(t)
			if got := r.get(g.off, int(g.n)); got != g.first {
				t.Errorf("after a reset it reads %#x, not %#x", got, g.first)
			}
			r.put(g.off, int(g.n), g.write)
			if got := r.get(g.off, int(g.n)); got != g.want {
				t.Errorf("after %#x was written it reads %#x, not %#x", g.write, got, g.want)
			}
			for i := range g.n { // byte for byte
				if got := r.get(g.off+i, 1); got != g.want>>(8*i)&0xff {
					t.Errorf("byte %d reads %#x", i, got)
				}
			}
			// A write that covers a part has no effect.
			for n := uint64(1); n < g.n; n++ {
				for i := uint64(0); i+n <= g.n; i++ {
					r := newRig(t)
					r.put(g.off+i, int(n), ^uint64(0))
					if got := r.get(g.off, int(g.n)); got != g.first {
						t.Errorf("%d bytes written at %d of it: it reads %#x", n, i, got)
					}
				}
			}
		})
	}
	// The registers are all of the structure.
	end := uint64(0)
	for _, g := range registers {
		if g.off != end {
			t.Errorf("%s is at %d, not %d", g.name, g.off, end)
		}
		end = g.off + g.n
	}
	if end != commonBytes {
		t.Errorf("%d bytes, not %d", commonBytes, end)
	}
}

// Accesses wider than a field: the fields in order of address.
func TestWideAccesses(t *testing.T) {
	r := newRig(t)
	// Select and value in one write of 8 bytes: the select acts first.
	r.put(comDriverFeatureSelect, 8, 1|1<<32)
	if got := r.get(comDriverFeatureSelect, 8); got != 1|1<<32 {
		t.Errorf("%#x", got)
	}
	if r.driverFeatures != FeatureVersion1 {
		t.Errorf("driver features %#x", r.driverFeatures)
	}
	// queue_select is a part of a write at the status, and then selects for what follows.
	r.put(comStatus, 4, 3|1<<16)
	r.put(comQueueSize, 8, 64|2<<16|1<<32)
	if q := r.queues[1]; q.Size != 64 || q.Vector != 2 || !q.enabled || r.queues[0].enabled {
		t.Errorf("%+v", r.queues)
	}
	// A 64-bit address in one piece, and both its halves alone ("PCI Device Layout").
	r.put(comQueueSelect, 2, 0)
	r.put(comQueueDesc, 8, 0x123456789abcdef0)
	r.put(comQueueDesc+4, 4, 0xffffffff)
	if got := r.get(comQueueDesc, 8); got != 0xffffffff9abcdef0 {
		t.Errorf("%#x", got)
	}
	// Not aligned: two bytes of what is before, one field.
	r.put(comConfigVector-2, 4, 2<<16|0xffff)
	if got := r.get(comConfigVector, 2); got != 2 {
		t.Errorf("config_msix_vector %#x", got)
	}
	// Across the end of the structure, and in pieces that no driver uses.
	all := make([]byte, 100)
	if err := r.ReadBAR(0, all, 0); err != nil {
		t.Fatal(err)
	}
	c := r.common()
	for i, v := range all {
		want := byte(0)
		if i < len(c) {
			want = c[i]
		}
		if v != want {
			t.Errorf("byte %d reads %#x, not %#x", i, v, want)
		}
	}
	r.put(commonBytes, 8, ^uint64(0))
	if r.common() != c {
		t.Error("a write behind the structure has changed it")
	}
}

// device_feature and driver_feature show the bits that are selected; there are none from 64 on.
func TestFeatureSelect(t *testing.T) {
	r := newRig(t, func(d *fakeDevice, _ *Options) { d.features |= 1 | 1<<63 | FeatureSRIOV | FeatureAdminVQ })
	want := r.dev.features &^ (FeatureSRIOV | FeatureAdminVQ)
	for _, sel := range []uint64{0, 1, 2, 3, 0x80000000, 0xffffffff} {
		r.put(comDeviceFeatureSelect, 4, sel)
		r.put(comDriverFeatureSelect, 4, sel)
		r.put(comDriverFeature, 4, 0xffffffff) // valid ones are shown
		w := uint64(0)
		if sel < 2 {
			w = want >> (32 * sel) & 0xffffffff
		}
		if a, b := r.get(comDeviceFeature, 4), r.get(comDriverFeature, 4); a != w || b != w {
			t.Errorf("select %#x: offered %#x, accepted %#x, not %#x", sel, a, b, w)
		}
	}
}

// queue_size: what a ring can have. A queue that does not exist has a size of 0.
func TestQueueSize(t *testing.T) {
	for _, c := range []struct {
		packed bool
		write  uint64
		want   uint64
	}{
		{false, 0, 256}, {false, 1, 1}, {false, 2, 2}, {false, 3, 256}, {false, 255, 256}, {false, 256, 256}, {false, 512, 256}, {false, 0x8000, 256}, {false, 0xffff, 256},
		{true, 0, 256}, {true, 1, 1}, {true, 3, 3}, {true, 255, 255}, {true, 256, 256}, {true, 257, 256}, {true, 0xffff, 256},
	} {
		t.Run(fmt.Sprintf("packed %v, %d", c.packed, c.write), func(t *testing.T) {
			r := newRig(t)
			f := FeatureVersion1
			if c.packed {
				f |= FeatureRingPacked
			}
			r.negotiate(f)
			r.put(comQueueSize, 2, c.write)
			if got := r.get(comQueueSize, 2); got != c.want {
				t.Errorf("it reads %d, not %d", got, c.want)
			}
		})
	}
	r := newRig(t)
	for _, i := range []uint64{2, 3, 0x7fff, 0xffff} {
		r.put(comQueueSelect, 2, i)
		for _, g := range registers {
			if g.off < comQueueSize {
				continue
			}
			r.put(g.off, int(g.n), g.write)
			want := uint64(0)
			if g.off == comQueueVector {
				want = NoVector
			}
			if got := r.get(g.off, int(g.n)); got != want {
				t.Errorf("queue %d: %s reads %#x", i, g.name, got)
			}
		}
	}
	r.wantCalls()
}

// A queue that is enabled cannot be set up any more, but for its vector.
func TestQueueEnabled(t *testing.T) {
	r := newRig(t)
	r.negotiate(FeatureVersion1)
	r.setUp(0)
	before := r.queues[0]
	r.put(comQueueSize, 2, 64)
	for off := uint64(comQueueDesc); off < comNotifConfigData; off += 8 {
		r.put(off, 8, ^uint64(0))
	}
	r.put(comQueueEnable, 2, 0) // which drivers must not write
	if r.queues[0] != before {
		t.Errorf("%+v, not %+v", r.queues[0], before)
	}
	r.put(comQueueVector, 2, 2)
	if got := r.get(comQueueVector, 2); got != 2 {
		t.Errorf("vector %d", got)
	}
	for _, v := range []uint64{0, 2, 0x0100, 0xffff} { // 1 enables, nothing else
		r.put(comQueueSelect, 2, 1)
		r.put(comQueueEnable, 2, v)
		if got := r.get(comQueueEnable, 2); got != 0 {
			t.Errorf("enabled by %#x", v)
		}
	}
}

// "MSI-X Vector Configuration": each event can be mapped to each vector and unmapped; what is not
// in the table reads back as NO_VECTOR.
func TestVectors(t *testing.T) {
	r := newRig(t)
	for _, off := range []uint64{comConfigVector, comQueueVector} {
		for _, c := range []struct{ write, want uint64 }{{0, 0}, {1, 1}, {2, 2}, {NoVector, NoVector}, {1, 1}, {3, NoVector}, {2, 2}, {0x7ff, NoVector}, {0, 0}, {0x8000, NoVector}} {
			r.put(off, 2, c.write)
			if got := r.get(off, 2); got != c.want {
				t.Errorf("vector %#x at %d reads %#x", c.write, off, got)
			}
		}
	}
}
