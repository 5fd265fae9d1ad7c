package virtio_test

import (
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// "Split Virtqueues": sizes, alignments, and every part inside memory.
func TestNewSplitRefuses(t *testing.T) {
	mem := newMemory(t)
	good := virtio.RingConfig{Size: 8, Desc: userDelta + ringAddr, Avail: userDelta + ringAddr + 0x1000,
		Used: userDelta + ringAddr + 0x2000, Mem: mem, Features: virtio.FeatureEventIdx}
	if _, err := virtio.NewSplit(good); err != nil {
		t.Fatal(err)
	}
	end := uint64(userDelta + memEnd)
	for _, c := range []struct {
		name string
		edit func(*virtio.RingConfig)
		want string
	}{
		{"size 0", func(c *virtio.RingConfig) { c.Size = 0 }, "power of two"},
		{"size 3", func(c *virtio.RingConfig) { c.Size = 3 }, "power of two"},
		{"size 65535", func(c *virtio.RingConfig) { c.Size = 65535 }, "power of two"},
		{"table misaligned", func(c *virtio.RingConfig) { c.Desc += 8 }, "descriptor table at user address 0x7f0000010008: must be aligned to 16"},
		{"available ring misaligned", func(c *virtio.RingConfig) { c.Avail++ }, "available ring"},
		{"used ring misaligned", func(c *virtio.RingConfig) { c.Used += 2 }, "used ring"},
		{"table nowhere", func(c *virtio.RingConfig) { c.Desc = 0 }, "descriptor table: user address 0x0"},
		{"table across the seam", func(c *virtio.RingConfig) { c.Desc = userDelta + seam - 64 }, "descriptor table"},
		{"avail past the end", func(c *virtio.RingConfig) { c.Avail = end - 20 }, "available ring"},
		{"used past the end", func(c *virtio.RingConfig) { c.Used = end - 68 }, "used ring"},
		{"wraps around", func(c *virtio.RingConfig) { c.Used = ^uint64(0) - 3 }, "used ring"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.edit(&cfg)
			_, err := virtio.NewSplit(cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v does not say %q", err, c.want)
			}
		})
	}
	// Without EVENT_IDX the event index is not part of the ring.
	cfg := good
	cfg.Features, cfg.Avail, cfg.Used = 0, end-20, end-2*68
	if _, err := virtio.NewSplit(cfg); err != nil {
		t.Errorf("without EVENT_IDX: %v", err)
	}
}

// A ring of every size passes its indices around 65536.
func TestAllSizesWrapAround(t *testing.T) {
	for size := uint16(1); size != 0 && size <= 4096; size *= 2 {
		for _, features := range []uint64{0, allRing} {
			g := newRig(t, size, features, 65536-3)
			buf := g.alloc(8)
			var c virtio.Chain
			for i := range uint64(2*size + 7) {
				head, err := g.ring.Add([]driver.Buffer{buf}, nil, i)
				if err != nil {
					t.Fatal(err)
				}
				g.ring.Publish()
				g.pop(&c)
				if c.Head != head || c.Err != nil || c.OutBytes != 8 || len(c.Out) != 1 {
					t.Fatalf("size %d: popped %+v, not head %d", size, c, head)
				}
				g.q.Push(c.Head, uint32(i))
				g.q.Publish()
				if u := g.used(); u.Token != i || u.Written != uint32(i) || u.Head != head {
					t.Fatalf("size %d: used %+v", size, u)
				}
			}
			if got, want := g.q.Base(), uint32(2*size+7-3); got != want {
				t.Errorf("size %d: base %d, not %d", size, got, want)
			}
			if ok, err := g.q.Pop(&c); ok || err != nil {
				t.Errorf("size %d: empty ring pops %v, %v", size, ok, err)
			}
		}
	}
}

// The available ring need only be aligned to 2 bytes, and rings may lie as close
// as their sizes allow: nothing beside them changes.
func TestTightUnalignedRings(t *testing.T) {
	mem := newMemory(t)
	b, err := mem.Bytes(ringAddr, 0x1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] = 0xee
	}
	const size, desc, avail, used = 2, 0, 32 + 2, 48 // avail: 34 to 46; used: 48 to 70
	clear(b[desc : avail+12])
	clear(b[used : used+22])
	put16 := func(at int, v uint16) { b[at], b[at+1] = byte(v), byte(v>>8) }
	get16 := func(at int) uint16 { return uint16(b[at]) | uint16(b[at+1])<<8 }
	u := uint64(ringAddr + userDelta)
	q, err := virtio.NewSplit(virtio.RingConfig{Size: size, Desc: u + desc, Avail: u + avail, Used: u + used, Features: allRing, Mem: mem})
	if err != nil {
		t.Fatal(err)
	}
	b[desc+16+8] = 5    // descriptor 1: 5 bytes
	b[desc+16+2] = 0x01 // at 0x10000
	put16(avail+4, 1)   // ring[0]
	put16(avail+8, 0)   // used_event
	put16(avail+2, 1)   // idx
	if !q.EnableKicks() {
		t.Error("an available chain is not pending")
	}
	var c virtio.Chain
	if ok, err := q.Pop(&c); !ok || err != nil || c.Head != 1 || c.OutBytes != 5 {
		t.Fatalf("popped %+v, %v, %v", c, ok, err)
	}
	if q.EnableKicks() {
		t.Error("a used-up ring is pending")
	}
	if got := get16(used + 20); got != 1 {
		t.Errorf("avail_event is %d", got)
	}
	q.Push(1, 0x01020304)
	if !q.Publish() {
		t.Error("used_event 0 and the first entry, but no call")
	}
	want := []byte{0, 0, 1, 0, 1, 0, 0, 0, 4, 3, 2, 1}
	if got := b[used : used+12]; string(got) != string(want) {
		t.Errorf("used ring %x, not %x", got, want)
	}
	for i := used + 22; i < len(b); i++ {
		if b[i] != 0xee {
			t.Fatalf("byte %d, behind the used ring, was changed", i)
		}
	}
	if b[46] != 0xee || b[47] != 0xee {
		t.Error("bytes between the rings were changed")
	}
}

// Corruption of the ring itself ends it, and says so for ever.
func TestBrokenRing(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(g *rig)
		want string
	}{
		{"index one too far", func(g *rig) { g.ring.SetAvailIdx(5) }, "index 5 is 5 ahead of 0, but the ring has 4"},
		{"index went back", func(g *rig) { g.ring.SetAvailIdx(65535) }, "65535 ahead"},
		{"head past the table", func(g *rig) { g.ring.PutAvail(4); g.ring.Publish() }, "names descriptor 4, but the ring has 4"},
		{"head 65535", func(g *rig) { g.ring.PutAvail(65535); g.ring.Publish() }, "names descriptor 65535"},
		{"head in flight", func(g *rig) {
			var c virtio.Chain
			g.ring.SetDesc(2, ringAddr, 1, 0, 0)
			g.ring.PutAvail(2)
			g.ring.PutAvail(2)
			g.ring.Publish()
			g.pop(&c)
		}, "names descriptor 2, which is in flight"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, 4, allRing, 0)
			c.do(g)
			g.broken(c.want, func() { g.ring.SetAvailIdx(0) })
		})
	}
}

// The available index is loaded once for all the chains it shows.
func TestIndexLoadedOnce(t *testing.T) {
	g := newRig(t, 4, 0, 0)
	for range 2 {
		if _, err := g.ring.Add([]driver.Buffer{g.alloc(1)}, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	g.ring.Publish()
	var c virtio.Chain
	g.pop(&c)
	g.ring.SetAvailIdx(1000) // nonsense, but nobody looks yet
	g.pop(&c)
	if _, err := g.q.Pop(&c); err == nil {
		t.Error("nobody looked at all")
	}
}

func TestPushOfNothingPanics(t *testing.T) {
	g := newRig(t, 4, 0, 0)
	for _, head := range []uint16{0, 4, 65535} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("push of %d, never popped, does not panic", head)
				}
			}()
			g.q.Push(head, 0)
		}()
	}
}

// A new device goes on in the used ring where the last one stopped, and its
// first publication calls even where the driver's event index is passed: the last
// one may have died between the two.
func TestTakeOver(t *testing.T) {
	g := newRig(t, 4, allRing, 0)
	var c virtio.Chain
	add := func() {
		if _, err := g.ring.Add([]driver.Buffer{{GuestAddr: ringAddr, Len: 1}}, nil, 7); err != nil {
			t.Fatal(err)
		}
		g.ring.Publish()
		g.pop(&c)
		g.q.Push(c.Head, 0)
	}
	add()
	g.q.Publish()
	q, err := virtio.NewSplit(ringConfig(g.mem, g.ring, allRing))
	if err != nil {
		t.Fatal(err)
	}
	g.q = q
	add()
	if !g.q.Publish() {
		t.Error("the first publication does not call")
	}
	add()
	if g.q.Publish() {
		t.Error("the second one calls, though the event index is 0")
	}
	for range 3 {
		if u := g.used(); u.Token != 7 {
			t.Errorf("used %+v", u)
		}
	}
}

// Memory that is gone faults; whoever recovers finds the ring's books in order.
func TestShrunkMemory(t *testing.T) {
	const size = 8
	mem, fd := fileMemory(t, 0x4000)
	ring, err := driver.NewRing(mem, 0, size, allRing)
	if err != nil {
		t.Fatal(err)
	}
	q, err := virtio.NewSplit(ringConfig(mem, ring, allRing))
	if err != nil {
		t.Fatal(err)
	}
	blk := newBlk(t, plainDisk())
	// The header lies in the second page, the status in the third.
	for range 3 {
		if _, err := ring.Add([]driver.Buffer{{GuestAddr: 0x1000, Len: 16}}, []driver.Buffer{{GuestAddr: 0x2000, Len: 1}}, 0); err != nil {
			t.Fatal(err)
		}
	}
	ring.Publish()
	faults := func(do func()) (caught bool) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() { caught = recover() != nil }()
		do()
		return
	}
	var a, b virtio.BlkRequest
	for _, r := range []*virtio.BlkRequest{&a, &b} {
		if ok, err := q.Pop(&r.Chain); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	shrink := func(n int64) {
		if err := unix.Ftruncate(fd, n); err != nil {
			t.Fatal(err)
		}
	}
	shrink(0x2000)
	if !blk.Decode(&a) {
		t.Fatal("a read is not submitted")
	}
	if !faults(func() { a.Complete() }) {
		t.Error("completing without the status's memory does not fault")
	}
	shrink(0x1000)
	if !faults(func() { blk.Decode(&b) }) {
		t.Error("decoding without the header's memory does not fault")
	}
	shrink(0)
	var c virtio.Chain
	for name, do := range map[string]func(){
		"Push":        func() { q.Push(a.Chain.Head, 0) },
		"EnableKicks": func() { q.EnableKicks() },
		"Pop":         func() { _, _ = q.Pop(&c) },
		"NewSplit":    func() { _, _ = virtio.NewSplit(ringConfig(mem, ring, allRing)) },
	} {
		if !faults(do) {
			t.Errorf("%s without the ring's memory does not fault", name)
		}
	}
	if q.Base() != 2 {
		t.Errorf("base %d, but two chains were taken", q.Base())
	}
}
