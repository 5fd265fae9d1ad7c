package driver_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

func TestMain(m *testing.M) { testleak.Main(m) }

const base = 0x10000 // guest address of the memory of these tests

func memory(t testing.TB) *guestmem.Memory {
	t.Helper()
	m, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{GuestAddr: base, Size: 1 << 16})})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newRing(t testing.TB, size uint16, features uint64) (*driver.Ring, *guestmem.Memory) {
	t.Helper()
	m := memory(t)
	r, err := driver.NewRing(m, base, size, features)
	if err != nil {
		t.Fatal(err)
	}
	return r, m
}

// at is guest memory from an address to the end of the region.
func at(t testing.TB, m *guestmem.Memory, addr uint64) []byte {
	t.Helper()
	b, err := m.Bytes(addr, base+1<<16-addr)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// "Split Virtqueues": sizes and alignments of the parts, none overlapping.
func TestLayout(t *testing.T) {
	for size := uint16(1); size <= 1024; size *= 2 {
		r, _ := newRing(t, size, 0)
		l := r.Config()
		n := uint64(size)
		if l.Size != size || l.Desc != base || l.Desc%16 != 0 || l.Avail%2 != 0 || l.Used%4 != 0 {
			t.Errorf("size %d: %+v", size, l)
		}
		if l.Avail < l.Desc+16*n || l.Used < l.Avail+6+2*n+2 || base+driver.RingBytes(size) < l.Used+6+8*n+2 {
			t.Errorf("size %d: parts overlap: %+v", size, l)
		}
	}
}

func TestNewRingRefuses(t *testing.T) {
	m := memory(t)
	for name, try := range map[string]func() error{
		"size 0":      func() error { _, err := driver.NewRing(m, base, 0, 0); return err },
		"size 6":      func() error { _, err := driver.NewRing(m, base, 6, 0); return err },
		"no memory":   func() error { _, err := driver.NewRing(m, base-64, 4, 0); return err },
		"not aligned": func() error { _, err := driver.NewRing(m, base+16, 4, 0); return err },
		"too large":   func() error { _, err := driver.NewRing(m, base, 32768, 0); return err },
	} {
		if try() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Byte for byte what a chain looks like, and that its descriptors come back.
func TestChainGolden(t *testing.T) {
	r, m := newRing(t, 4, driver.FeatureEventIdx)
	head, err := r.Add([]driver.Buffer{{GuestAddr: 0x1122334455667788, Len: 16}}, []driver.Buffer{{GuestAddr: 0x99, Len: 0x01020304}}, 5)
	if err != nil || head != 0 || r.Free() != 2 {
		t.Fatal(head, err, r.Free())
	}
	want := []byte{
		0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 16, 0, 0, 0, 1, 0, 1, 0, // NEXT
		0x99, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 2, 0, 2, 0, // WRITE
	}
	if got := at(t, m, r.Config().Desc)[:32]; !bytes.Equal(got, want) {
		t.Errorf("descriptors %x", got)
	}
	avail := at(t, m, r.Config().Avail)
	if !bytes.Equal(avail[:6], make([]byte, 6)) {
		t.Errorf("available ring before Publish: %x", avail[:6])
	}
	if !r.Publish() || r.Publish() {
		t.Error("the first entry wants one kick")
	}
	if !bytes.Equal(avail[:6], []byte{0, 0, 1, 0, 0, 0}) {
		t.Errorf("available ring %x", avail[:6])
	}
	if _, ok := r.Next(); ok {
		t.Error("something is used")
	}
	copy(at(t, m, r.Config().Used), []byte{0, 0, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0})
	if u, ok := r.Next(); !ok || u != (driver.Used{Head: 0, Token: 5, Written: 7}) || r.Free() != 4 {
		t.Errorf("used %+v, %v; %d free", u, ok, r.Free())
	}
	if id, n := r.UsedEntry(0); id != 0 || n != 7 {
		t.Errorf("entry %d, %d", id, n)
	}
}

func TestFull(t *testing.T) {
	r, _ := newRing(t, 4, 0)
	one := []driver.Buffer{{GuestAddr: base, Len: 1}}
	table := driver.Buffer{GuestAddr: base + 0x8000, Len: 64}
	if _, err := r.Add(nil, nil, 0); err == nil {
		t.Error("a chain of nothing")
	}
	if _, err := r.AddIndirect(1, table, one, nil, 0); err == nil {
		t.Error("an indirect table of nothing")
	}
	if _, err := r.AddIndirect(0, driver.Buffer{GuestAddr: base, Len: 15}, one, nil, 0); err == nil {
		t.Error("an indirect table without room")
	}
	if _, err := r.AddIndirect(0, driver.Buffer{GuestAddr: 0, Len: 64}, one, nil, 0); err == nil {
		t.Error("an indirect table outside memory")
	}
	for range 3 {
		if _, err := r.Add(one, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Add(one, one, 0); err != driver.ErrFull {
		t.Errorf("two descriptors where one is left: %v", err)
	}
	if _, err := r.AddIndirect(1, table, one, one, 0); err != driver.ErrFull {
		t.Errorf("two descriptors where one is left: %v", err)
	}
	if _, err := r.AddIndirect(0, table, one, one, 0); err != nil || r.Free() != 0 {
		t.Errorf("one descriptor for a table: %v, %d free", err, r.Free())
	}
}

// A device that breaks the ring is found out, and the ring stays broken.
func TestBrokenDevice(t *testing.T) {
	for name, c := range map[string]struct {
		idx  uint16
		id   uint32
		want string
	}{
		"index too far": {idx: 5, want: "moved the used index from 0 to 5"},
		"index back":    {idx: 65535, want: "moved the used index"},
		"no such head":  {idx: 1, id: 4, want: "gave back descriptor 4"},
		"2^32-1":        {idx: 1, id: ^uint32(0), want: "gave back descriptor 4294967295"},
		"not with it":   {idx: 1, id: 1, want: "gave back descriptor 1 in used entry 0"},
	} {
		r, m := newRing(t, 4, 0)
		if _, err := r.Add([]driver.Buffer{{GuestAddr: base, Len: 1}}, nil, 0); err != nil {
			t.Fatal(err)
		}
		r.Publish()
		used := at(t, m, r.Config().Used)
		binary.LittleEndian.PutUint16(used[2:], c.idx)
		binary.LittleEndian.PutUint32(used[4:], c.id)
		for range 2 {
			if u, ok := r.Next(); ok {
				t.Errorf("%s: %+v", name, u)
			}
			if err := r.Err(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v does not say %q", name, err, c.want)
			}
		}
	}
}

// "Used Buffer Notification Suppression", the driver's half.
func TestCalls(t *testing.T) {
	for _, features := range []uint64{0, driver.FeatureEventIdx} {
		r, m := newRing(t, 4, features)
		l := r.Config()
		flags := func() byte { return at(t, m, l.Avail)[0] }
		event := func() uint16 { return binary.LittleEndian.Uint16(at(t, m, l.Avail+4+8)) }
		if r.EnableCalls() {
			t.Error("pending, but nothing is used")
		}
		if flags() != 0 || event() != 0 {
			t.Errorf("enabled: flags %d, event %d", flags(), event())
		}
		r.DisableCalls()
		if features == 0 && flags() != 1 || features != 0 && (flags() != 0 || event() != 65535) {
			t.Errorf("disabled: flags %d, event %d", flags(), event())
		}
		if _, err := r.Add([]driver.Buffer{{GuestAddr: base, Len: 1}}, nil, 0); err != nil {
			t.Fatal(err)
		}
		r.Publish()
		copy(at(t, m, l.Used), []byte{0, 0, 1, 0})
		if !r.EnableCalls() {
			t.Error("not pending, though something is used")
		}
	}
}

// The device's wishes about kicks: flags without EVENT_IDX, avail_event with it.
func TestKicks(t *testing.T) {
	for _, c := range []struct {
		features uint64
		flags    byte
		event    uint16
		n        int
		kick     bool
	}{
		{0, 0, 9, 1, true},
		{0, 1, 0, 1, false},
		{driver.FeatureEventIdx, 1, 0, 1, true},
		{driver.FeatureEventIdx, 0, 1, 1, false},
		{driver.FeatureEventIdx, 0, 1, 2, true},
		{driver.FeatureEventIdx, 0, 2, 2, false},
		{driver.FeatureEventIdx, 0, 65535, 3, false},
	} {
		r, m := newRing(t, 4, c.features)
		l := r.Config()
		at(t, m, l.Used)[0] = c.flags
		binary.LittleEndian.PutUint16(at(t, m, l.Used+4+32), c.event)
		if r.AvailEvent() != c.event || r.DeviceFlags() != uint16(c.flags) {
			t.Errorf("%+v: reads flags %d, event %d", c, r.DeviceFlags(), r.AvailEvent())
		}
		for range c.n {
			if _, err := r.Add([]driver.Buffer{{GuestAddr: base, Len: 1}}, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.Publish(); got != c.kick {
			t.Errorf("%+v: kick %v", c, got)
		}
	}
}

func TestBlk(t *testing.T) {
	r, m := newRing(t, 8, 0)
	const scratch = base + 0x1000
	b := driver.Blk{Type: driver.TypeZoneAppend, Sector: 0x0102, Scratch: scratch, Data: []driver.Buffer{{GuestAddr: base, Len: 512}}}
	for _, c := range []struct {
		linux bool
		bytes int
	}{{false, 9}, {true, 16}} {
		b.LinuxFooter = c.linux
		if _, err := r.AddBlk(&b, 0); err != nil {
			t.Fatal(err)
		}
		s := at(t, m, scratch)[:driver.BlkScratchBytes]
		if !bytes.Equal(s[:16], []byte{15, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0}) {
			t.Errorf("header %x", s[:16])
		}
		if status, _, err := r.BlkResult(&b); status != driver.StatusNone || err != nil {
			t.Errorf("status %d, %v", status, err)
		}
		binary.LittleEndian.PutUint64(s[16:], 77)
		s[16+c.bytes-1] = driver.StatusZoneUnalignedWP
		if status, sector, err := r.BlkResult(&b); status != driver.StatusZoneUnalignedWP || sector != 77 || err != nil {
			t.Errorf("status %d, sector %d, %v", status, sector, err)
		}
	}
	b.Scratch = 0
	if _, err := r.AddBlk(&b, 0); err == nil {
		t.Error("scratch outside memory")
	}
	if _, _, err := r.BlkResult(&b); err == nil {
		t.Error("a result outside memory")
	}
	if got := driver.StatusString(driver.StatusZoneOpenResource); got != "ZONE_OPEN_RESOURCE" {
		t.Error(got)
	}
	if got := driver.StatusString(driver.StatusNone); got != "status 255" {
		t.Error(got)
	}
	if _, err := driver.ParseBlkConfig(make([]byte, 60)); err == nil {
		t.Error("60 bytes are no configuration space with zones")
	}
}
