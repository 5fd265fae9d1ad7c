package driver_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio/driver"
)

// What the driver's side of a packed ring writes, byte for byte ("Packed
// Virtqueues"): nothing shows before Publish, and the flags of the first
// descriptor come last.
func TestPackedGolden(t *testing.T) {
	r, m := newRing(t, 3, driver.FeatureRingPacked)
	desc := at(t, m, r.Config().Desc)
	dump := func(i int) string { return fmt.Sprintf("%x %x", desc[16*i:16*i+8], desc[16*i+8:16*i+16]) }
	const none = "0000000000000000 0000000000000000"
	for i, id := range []uint16{0, 1} {
		in := []driver.Buffer{{GuestAddr: 0x99, Len: 0x01020304}}
		if i == 1 {
			in = nil
		}
		got, err := r.Add([]driver.Buffer{{GuestAddr: 0x1122334455667788, Len: 16}}, in, uint64(5+i))
		if err != nil || got != id {
			t.Fatal(got, err)
		}
	}
	if r.Free() != 0 {
		t.Errorf("%d free", r.Free())
	}
	if _, err := r.Add([]driver.Buffer{{GuestAddr: base, Len: 1}}, nil, 0); err != driver.ErrFull {
		t.Errorf("a full ring takes more: %v", err)
	}
	if got := dump(0); got != "8877665544332211 1000000000000000" {
		t.Errorf("before Publish: %s", got)
	}
	if !r.Publish() || r.Publish() {
		t.Error("the first chains want one kick")
	}
	for i, want := range []string{
		"8877665544332211 1000000000008100", // NEXT, available in the first lap
		"9900000000000000 0403020100008200", // WRITE
		"8877665544332211 1000000001008000",
	} {
		if got := dump(i); got != want {
			t.Errorf("descriptor %d: %s, not %s", i, got, want)
		}
	}
	// Used out of order: the later one first, in the first place.
	if _, ok := r.Next(); ok {
		t.Error("something is used")
	}
	copy(desc[8:], []byte{7, 0, 0, 0, 1, 0, 0x82, 0x80})
	if u, ok := r.Next(); !ok || u != (driver.Used{Head: 1, Token: 6, Written: 7}) || r.Free() != 1 {
		t.Errorf("used %+v, %v; %d free", u, ok, r.Free())
	}
	copy(desc[16+8:], []byte{9, 0, 0, 0, 0, 0, 0x80, 0x80}) // no WRITE: the length says nothing
	if u, ok := r.Next(); !ok || u != (driver.Used{Head: 0, Token: 5}) || r.Free() != 3 {
		t.Errorf("used %+v, %v; %d free", u, ok, r.Free())
	}
	if got := dump(2); got == none || r.Base() != 0 || r.Rewound() != 0 {
		t.Errorf("base %#x, rewound %#x", r.Base(), r.Rewound())
	}
}

// A device that gives back what it has not, ends the ring.
func TestPackedBrokenDevice(t *testing.T) {
	for _, id := range []uint16{1, 4, 65535} {
		r, _ := newRing(t, 4, driver.FeatureRingPacked)
		if _, err := r.Add([]driver.Buffer{{GuestAddr: base, Len: 1}}, nil, 0); err != nil {
			t.Fatal(err)
		}
		r.Publish()
		r.SetPackedDesc(0, 0, 0, id, 0x8080)
		for range 2 {
			if u, ok := r.Next(); ok {
				t.Errorf("buffer %d: %+v", id, u)
			}
			if err := r.Err(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("gave back buffer %d", id)) {
				t.Errorf("buffer %d: %v", id, err)
			}
		}
	}
}

// The device's wishes about kicks, and the driver's about calls ("Event Suppression
// Structure Format").
func TestPackedEvents(t *testing.T) {
	for _, c := range []struct {
		features uint64
		word     uint32 // of the device
		n        int    // chains
		kick     bool
	}{
		{0, 0, 1, true},
		{0, 1 << 16, 1, false},
		{0, 2<<16 | 0x8003, 1, true}, // not negotiated
		{driver.FeatureEventIdx, 0, 1, true},
		{driver.FeatureEventIdx, 1 << 16, 3, false},
		{driver.FeatureEventIdx, 2<<16 | 0x8000, 1, true},
		{driver.FeatureEventIdx, 2<<16 | 0x8001, 1, false},
		{driver.FeatureEventIdx, 2<<16 | 0x8001, 2, true},
		{driver.FeatureEventIdx, 2 << 16, 3, false}, // the next lap's
	} {
		r, m := newRing(t, 4, driver.FeatureRingPacked|c.features)
		binary.LittleEndian.PutUint32(at(t, m, r.Config().Used), c.word)
		for range c.n {
			if _, err := r.Add([]driver.Buffer{{GuestAddr: base, Len: 1}}, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.Publish(); got != c.kick {
			t.Errorf("%+v: kick %v", c, got)
		}
		area := at(t, m, r.Config().Avail)
		if r.EnableCalls() {
			t.Error("pending, but nothing is used")
		}
		want := "00000000"
		if c.features != 0 {
			want = "00800200"
		}
		if got := fmt.Sprintf("%x", area[:4]); got != want {
			t.Errorf("%+v: calls enabled: %s", c, got)
		}
		r.DisableCalls()
		if got := fmt.Sprintf("%x", area[:4]); got != "00000100" {
			t.Errorf("%+v: calls disabled: %s", c, got)
		}
		r.SetPackedDesc(0, 0, 0, 0, 0x8080)
		if !r.EnableCalls() {
			t.Error("not pending, though something is used")
		}
	}
}
