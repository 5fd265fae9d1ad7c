package virtio_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// Sections named in this file are of "Packed Virtqueues".

const (
	fAvail = 1 << 7
	fUsed  = 1 << 15
)

// "Structure Size and Alignment": any size up to 32768, alignments, every part
// inside memory, and a base that can be.
func TestNewPackedRefuses(t *testing.T) {
	mem := newMemory(t)
	good := virtio.RingConfig{Size: 7, Desc: userDelta + ringAddr, Avail: userDelta + ringAddr + 0x1000,
		Used: userDelta + ringAddr + 0x2000, Mem: mem, Base: 0x8000_8000}
	end := uint64(userDelta + memEnd)
	for _, c := range []struct {
		name string
		edit func(*virtio.RingConfig)
		want string // nothing: it is taken
	}{
		{"as it is", func(*virtio.RingConfig) {}, ""},
		{"size 1", func(c *virtio.RingConfig) { c.Size = 1 }, ""},
		{"size 3", func(c *virtio.RingConfig) { c.Size = 3 }, ""},
		{"size 0", func(c *virtio.RingConfig) { c.Size = 0 }, "must be 1 to 32768"},
		{"size 32769", func(c *virtio.RingConfig) { c.Size = 32769 }, "must be 1 to 32768"},
		{"ring misaligned", func(c *virtio.RingConfig) { c.Desc += 8 }, "descriptor ring at user address 0x7f0000010008: must be aligned to 16"},
		{"driver area misaligned", func(c *virtio.RingConfig) { c.Avail += 2 }, "driver event suppression"},
		{"device area misaligned", func(c *virtio.RingConfig) { c.Used += 2 }, "device event suppression"},
		{"ring nowhere", func(c *virtio.RingConfig) { c.Desc = 0 }, "descriptor ring: user address 0x0"},
		{"ring across the seam", func(c *virtio.RingConfig) { c.Desc = userDelta + seam - 64 }, "descriptor ring"},
		{"ring up to the end", func(c *virtio.RingConfig) { c.Desc = end - 7*16 }, ""},
		{"ring past the end", func(c *virtio.RingConfig) { c.Desc = end - 6*16 }, "descriptor ring"},
		{"areas at the end", func(c *virtio.RingConfig) { c.Avail, c.Used = end-4, end-8 }, ""},
		{"driver area past the end", func(c *virtio.RingConfig) { c.Avail = end }, "driver event suppression"},
		{"device area past the end", func(c *virtio.RingConfig) { c.Used = end }, "device event suppression"},
		{"base past the ring", func(c *virtio.RingConfig) { c.Base = 0x8007_8007 }, "base 0x80078007: descriptors 7"},
		{"base of a full ring", func(c *virtio.RingConfig) { c.Base = 0x8003_0003 }, ""},
		{"base with more than a full ring", func(c *virtio.RingConfig) { c.Base = 0x8003_0004 }, "make no sense"},
		{"base with more used than available", func(c *virtio.RingConfig) { c.Base = 0x8003_8002 }, "make no sense"},
		{"base of a split ring", func(c *virtio.RingConfig) { c.Base = 5 }, ""}, // five in flight
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.edit(&cfg)
			q, err := virtio.NewPacked(cfg)
			switch {
			case c.want == "" && (err != nil || q.Base() != cfg.Base):
				t.Fatalf("%v, or another base", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("error %v does not say %q", err, c.want)
			}
		})
	}
	// What a split ring cannot go on from.
	if _, err := virtio.NewQueue(virtio.RingConfig{Size: 8, Base: 0x8000_8000, Mem: mem}); err == nil || !strings.Contains(err.Error(), "16 bits") {
		t.Errorf("a split ring with base 0x80008000: %v", err)
	}
}

// Every descriptor byte for byte, on both sides of the ring's end: what the driver
// has put there, and what the device makes of it ("The Virtqueue Descriptor
// Format").
func TestPackedGolden(t *testing.T) {
	g := newRig(t, 3, allPacked, 2)
	buf := g.alloc(8)
	add := func(token uint64) {
		t.Helper()
		if _, err := g.ring.Add([]driver.Buffer{buf}, []driver.Buffer{{GuestAddr: buf.GuestAddr, Len: 2}}, token); err != nil {
			t.Fatal(err)
		}
	}
	all := g.bytes(driver.Buffer{GuestAddr: ringAddr, Len: 48})
	want := func(when string, descs ...string) {
		t.Helper()
		if got := fmt.Sprintf("%x %x %x", all[8:16], all[24:32], all[40:48]); got != strings.Join(descs, " ") {
			t.Fatalf("%s: %s", when, got)
		}
	}
	want("unused", "0000000000008080", "0000000000008080", "0000000000000000")
	add(7)
	g.ring.Publish()
	// Descriptor 2 is the first of the chain and the last of its lap: NEXT and
	// AVAIL; descriptor 0 is of the next lap: WRITE and USED.
	want("available", "0200000000000280", "0000000000008080", "0800000000008100")
	var c virtio.Chain
	g.pop(&c)
	if c.Head != 0 || c.OutBytes != 8 || c.InBytes != 2 {
		t.Fatalf("popped %+v", c)
	}
	g.q.Push(0, 2)
	want("pushed", "0200000000000280", "0000000000008080", "0200000000008100")
	if !g.q.Publish() {
		t.Error("no call")
	}
	want("used", "0200000000000280", "0000000000008080", "0200000000008280")
	if u := g.used(); u != (driver.Used{Head: 0, Token: 7, Written: 2}) {
		t.Fatalf("used %+v", u)
	}
	if base := g.q.Base(); base != 0x0001_0001 {
		t.Errorf("base %#x", base)
	}
	// Nothing written: no WRITE flag.
	add(8)
	g.ring.Publish()
	g.pop(&c)
	g.q.Push(c.Head, 0)
	g.q.Publish()
	want("nothing written", "0200000000000280", "0000000000000000", "0200000000000280")
	if base := g.q.Base(); base != 0x8000_8000 {
		t.Errorf("base %#x", base)
	}
}

// A ring of every size goes around many times, with one chain in it or full of
// them.
func TestPackedSizes(t *testing.T) {
	for size := uint16(1); size <= 40; size++ {
		for _, features := range []uint64{driver.FeatureRingPacked, allPacked} {
			for _, n := range []int{1, int(size)} {
				g := newRig(t, size, features, size-1)
				buf := g.alloc(8)
				var c virtio.Chain
				for round := range uint64(3*size + 7) {
					for i := range n {
						if _, err := g.ring.Add([]driver.Buffer{buf}, nil, round<<16|uint64(i)); err != nil {
							t.Fatal(err)
						}
					}
					g.ring.Publish()
					heads := make([]uint16, n)
					for i := range heads {
						g.pop(&c)
						heads[i] = c.Head
					}
					if ok, err := g.q.Pop(&c); ok || err != nil {
						t.Fatalf("size %d: an empty ring pops %v, %v", size, ok, err)
					}
					for i := range heads {
						g.q.Push(heads[n-1-i], uint32(round)+1)
					}
					g.q.Publish()
					for i := range n {
						if u := g.used(); u.Token != round<<16|uint64(n-1-i) || u.Written != uint32(round)+1 {
							t.Fatalf("size %d: used %+v", size, u)
						}
					}
				}
				if g.q.Base() != g.ring.Base() {
					t.Errorf("size %d: base %#x, not %#x", size, g.q.Base(), g.ring.Base())
				}
			}
		}
	}
}

// "Polling of available and used descriptors": of a batch the driver sees nothing
// before Publish, and everything after it.
func TestPackedBatch(t *testing.T) {
	g := newRig(t, 8, allPacked, 6)
	g.use(3)
	if u, ok := g.ring.Next(); ok {
		t.Fatalf("used %+v before Publish", u)
	}
	if base := g.q.Base(); base != 0x8006_0001 {
		t.Errorf("base %#x: what is staged is not used yet", base)
	}
	g.q.EnableKicks()
	g.q.DisableKicks()
	if u, ok := g.ring.Next(); ok {
		t.Fatalf("used %+v before Publish", u)
	}
	g.q.Publish()
	for range 3 {
		g.used()
	}
}

// Corruption of the ring itself ends it, and says so for ever.
func TestBrokenPackedRing(t *testing.T) {
	const available = fAvail // in the first lap
	for _, c := range []struct {
		name string
		do   func(g *rig)
		want string
	}{
		{"id past the ring", func(g *rig) { g.ring.SetPackedDesc(0, ringAddr, 1, 4, available) }, "descriptor 0 has buffer id 4, but the ring has 4"},
		{"id 65535", func(g *rig) { g.ring.SetPackedDesc(0, ringAddr, 1, 65535, available) }, "buffer id 65535"},
		{"id in flight", func(g *rig) {
			var c virtio.Chain
			g.ring.SetPackedDesc(0, ringAddr, 1, 2, available)
			g.pop(&c)
			g.ring.SetPackedDesc(1, ringAddr, 1, 2, available)
		}, "descriptor 1 has buffer id 2, which is in flight"},
		{"chain without an end", func(g *rig) {
			for i := range uint16(4) {
				g.ring.SetPackedDesc(i, ringAddr, 1, i, available|fNext)
			}
		}, "its chain runs into descriptors that are in flight"},
		{"chain into what is in flight", func(g *rig) {
			var c virtio.Chain
			g.ring.SetPackedDesc(0, ringAddr, 1, 0, available)
			g.pop(&c)
			for i := range uint16(3) {
				g.ring.SetPackedDesc(i+1, ringAddr, 1, 1, available|fNext)
			}
		}, "descriptor 0: its chain runs into"},
		{"more than there are", func(g *rig) {
			var c virtio.Chain
			for i := range uint16(4) {
				g.ring.SetPackedDesc(i, ringAddr, 1, i, available)
				g.pop(&c)
			}
			g.ring.SetPackedDesc(0, ringAddr, 1, 0, fUsed)
		}, "in flight"},
		{"staged, but not yet the driver's", func(g *rig) {
			var c virtio.Chain
			for i := range uint16(4) {
				g.ring.SetPackedDesc(i, ringAddr, 1, i, available)
				g.pop(&c)
				g.q.Push(c.Head, 0)
			}
			g.ring.SetPackedDesc(0, ringAddr, 1, 0, fUsed)
		}, "in flight"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, 4, allPacked, 0)
			c.do(g)
			g.broken(c.want, func() {
				for i := range uint16(4) {
					g.ring.SetPackedDesc(i, 0, 0, 0, 0)
				}
			})
		})
	}
}

// Flags that are not those of an available descriptor make none: "A device MUST
// NOT use a descriptor unless it observes the VIRTQ_DESC_F_AVAIL bit in its flags
// being changed".
func TestPackedNotAvailable(t *testing.T) {
	for start, flags := range map[uint16][]uint16{0: {0, fUsed, fUsed | fAvail}, 4: {0, fAvail, fUsed | fAvail}} {
		for _, f := range flags {
			g := newRig(t, 4, allPacked, start)
			g.ring.SetPackedDesc(0, ringAddr, 1, 0, f|fNext|fWrite)
			var c virtio.Chain
			if ok, err := g.q.Pop(&c); ok || err != nil || g.q.EnableKicks() {
				t.Errorf("start %d, flags %#x: %v, %v", start, f, ok, err)
			}
		}
	}
}

func TestPackedPushOfNothingPanics(t *testing.T) {
	g := newRig(t, 4, allPacked, 0)
	for _, id := range []uint16{0, 4, 65535} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("push of %d, never popped, does not panic", id)
				}
			}()
			g.q.Push(id, 0)
		}()
	}
}

// A queue is made of plain data: one that takes a ring over in the middle goes on
// where the other stopped, its first publication calls, and descriptors that
// nobody has given back stay out of bounds.
func TestPackedTakeOver(t *testing.T) {
	g := newRig(t, 4, allPacked, 3)
	g.use(2)
	g.q.Publish()
	var c virtio.Chain
	for range 2 { // one of these stays in flight
		if _, err := g.ring.Add([]driver.Buffer{{GuestAddr: ringAddr, Len: 1}}, nil, 9); err != nil {
			t.Fatal(err)
		}
	}
	g.ring.Publish()
	g.pop(&c)
	cfg := ringConfig(g.mem, g.ring, allPacked)
	cfg.Base = g.q.Base()
	q, err := virtio.NewPacked(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.q = q
	g.pop(&c)
	g.ring.SetPackedEvent(0x0002_0001) // long passed
	g.q.Push(c.Head, 0)
	if !g.q.Publish() {
		t.Error("the first publication does not call")
	}
	for range 3 {
		g.used()
	}
	g.ring.SetPackedDesc(3, ringAddr, 1, 0, fUsed|fNext)
	g.ring.SetPackedDesc(0, ringAddr, 1, 0, fAvail|fNext)
	g.ring.SetPackedDesc(1, ringAddr, 1, 0, fAvail|fNext)
	g.ring.SetPackedDesc(2, ringAddr, 1, 0, fAvail)
	if ok, err := g.q.Pop(&c); ok || err == nil {
		t.Errorf("a chain over what is in flight: %v, %v", ok, err)
	}
}

// Memory that is gone faults; whoever recovers finds the ring's books in order.
func TestShrunkPackedMemory(t *testing.T) {
	mem, fd := fileMemory(t, 0x4000)
	ring, err := driver.NewRing(mem, 0, 8, allPacked)
	if err != nil {
		t.Fatal(err)
	}
	q, err := virtio.NewPacked(ringConfig(mem, ring, allPacked))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := ring.Add([]driver.Buffer{{GuestAddr: 0x1000, Len: 16}}, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	ring.Publish()
	var c virtio.Chain
	for range 2 {
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	q.Push(0, 0)
	base := q.Base()
	if err := unix.Ftruncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(){
		"Push":         func() { q.Push(1, 0) },
		"Publish":      func() { q.Publish() },
		"EnableKicks":  func() { q.EnableKicks() },
		"DisableKicks": func() { q.DisableKicks() },
		"Pop":          func() { _, _ = q.Pop(&c) },
	} {
		func() {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
			defer func() {
				if recover() == nil {
					t.Errorf("%s without the ring's memory does not fault", name)
				}
			}()
			do()
		}()
	}
	if q.Base() != base {
		t.Errorf("base %#x, not %#x", q.Base(), base)
	}
}

// The wrap counters in words of event suppression, and reserved bits: the device
// writes them as the specification has them ("Event Suppression Structure
// Format").
func TestPackedEventGolden(t *testing.T) {
	for _, c := range []struct {
		features uint64
		start    uint16
		on, off  string
	}{
		{allPacked, 0, "00800200", "00000100"},
		{allPacked, 3, "03800200", "00000100"},
		{allPacked, 7, "02000200", "00000100"},
		{driver.FeatureRingPacked, 7, "00000000", "00000100"},
	} {
		g := newRig(t, 5, c.features, c.start)
		b := g.bytes(driver.Buffer{GuestAddr: g.ring.Config().Used, Len: 4})
		binary.LittleEndian.PutUint32(b, 0xffffffff) // from whoever was there before
		for range 2 {
			g.q.EnableKicks()
			if got := fmt.Sprintf("%x", b); got != c.on {
				t.Errorf("start %d: enabled: %s", c.start, got)
			}
			g.q.DisableKicks()
			if got := fmt.Sprintf("%x", b); got != c.off {
				t.Errorf("start %d: disabled: %s", c.start, got)
			}
		}
		if !bytes.Equal(b, []byte{0, 0, 1, 0}) || g.ring.PackedEvent() != 1<<16 {
			t.Error("not what the driver reads")
		}
	}
}
