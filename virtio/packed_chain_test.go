package virtio_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// popPacked lets the device take the chain ds, which has buffer id 5: a desc's
// next is not used.
func popPacked(g *rig, ds ...desc) *virtio.Chain {
	g.t.Helper()
	for i := len(ds) - 1; i >= 0; i-- {
		id := uint16(5)
		if i < len(ds)-1 {
			id = 0xabcd // only the last one's counts
		}
		g.ring.SetPackedDesc(uint16(i), ds[i].addr, ds[i].len, id, ds[i].flags|fAvail)
	}
	c := new(virtio.Chain)
	g.pop(c)
	return c
}

// packedTable writes an indirect table: as a descriptor table, but with id before
// flags. The ids are nonsense.
func (g *rig) packedTable(addr uint64, ds ...desc) {
	g.t.Helper()
	for i, d := range ds {
		var b [16]byte
		putDesc(b[:], desc{d.addr, d.len, 0xfff0, d.flags})
		for j, x := range b { // byte by byte, for it may cross regions
			g.bytes(driver.Buffer{GuestAddr: addr + uint64(16*i+j), Len: 1})[0] = x
		}
	}
}

// What the specification allows.
func TestPackedChains(t *testing.T) {
	long := make([]desc, virtio.MaxChain)
	for i := range long {
		long[i] = desc{dataAddr, 1, 0, 0}
	}
	for _, c := range []struct {
		name     string // and section
		direct   []desc
		indirect []desc
		out, in  uint64
		pieces   [2]int
	}{
		{"one readable", []desc{{dataAddr, 7, 0, 0}}, nil, 7, 0, [2]int{1, 0}},
		{"one writable", []desc{{dataAddr, 7, fWrite, 0}}, nil, 0, 7, [2]int{0, 1}},
		{"readable, then writable (Scatter-Gather Support)",
			[]desc{{dataAddr, 1, fNext, 0}, {dataAddr, 2, fNext, 0}, {dataAddr, 4, fWrite, 0}}, nil, 3, 4, [2]int{2, 1}},
		{"as long as the ring", []desc{{dataAddr, 1, fNext, 0}, {dataAddr, 1, fNext, 0}, {dataAddr, 1, fNext, 0}, {dataAddr, 1, fNext, 0},
			{dataAddr, 1, fNext, 0}, {dataAddr, 1, fNext, 0}, {dataAddr, 1, fNext, 0}, {dataAddr, 1, fWrite, 0}}, nil, 7, 1, [2]int{7, 1}},
		{"no bytes anywhere", []desc{{^uint64(0), 0, fNext, 0}, {0, 0, fWrite, 0}}, nil, 0, 0, [2]int{0, 0}},
		{"unknown flags", []desc{{dataAddr, 3, 0x7f78, 0}}, nil, 3, 0, [2]int{1, 0}},
		{"across two regions", []desc{{seam - 8, 16, fWrite, 0}}, nil, 0, 16, [2]int{0, 2}},
		{"indirect (Indirect Flag)",
			[]desc{{tableAddr, 32, fIndirect, 0}}, []desc{{dataAddr, 3, 0, 0}, {dataAddr, 5, fWrite, 0}}, 3, 5, [2]int{1, 1}},
		{"indirect, write flag of no meaning",
			[]desc{{tableAddr, 32, fIndirect | fWrite, 0}}, []desc{{dataAddr, 3, 0, 0}, {dataAddr, 5, fWrite, 0}}, 3, 5, [2]int{1, 1}},
		{"other flags in a table are ignored",
			[]desc{{tableAddr, 48, fIndirect, 0}}, []desc{{dataAddr, 3, fNext | fAvail, 0}, {dataAddr, 4, fIndirect, 0}, {dataAddr, 5, fWrite | fNext | fUsed, 0}}, 7, 5, [2]int{2, 1}},
		{"indirect, longer than the ring (Linux)",
			[]desc{{tableAddr, virtio.MaxChain * 16, fIndirect, 0}}, long, virtio.MaxChain, 0, [2]int{virtio.MaxChain, 0}},
		{"indirect table across two regions",
			[]desc{{seam - 24, 48, fIndirect, 0}}, []desc{{dataAddr, 3, 0, 0}, {dataAddr, 4, 0, 0}, {dataAddr, 5, fWrite, 0}}, 7, 5, [2]int{2, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, 8, allPacked, 0)
			if len(c.indirect) > 0 {
				g.packedTable(c.direct[0].addr, c.indirect...)
			}
			got := popPacked(g, c.direct...)
			if got.Err != nil || got.Head != 5 {
				t.Fatalf("head %d, %v", got.Head, got.Err)
			}
			if got.OutBytes != c.out || got.InBytes != c.in {
				t.Errorf("%d bytes out, %d in; not %d and %d", got.OutBytes, got.InBytes, c.out, c.in)
			}
			if len(got.Out) != c.pieces[0] || len(got.In) != c.pieces[1] {
				t.Errorf("%d pieces out, %d in; not %v", len(got.Out), len(got.In), c.pieces)
			}
			if base, want := g.q.Base(), 0x8000_0000|uint32(len(c.direct)%8)|uint32(1-len(c.direct)/8)<<15; base != want {
				t.Errorf("base %#x, not %#x", base, want)
			}
		})
	}
}

// What it forbids costs the request, never the ring: the chain is passed to its
// end, and given back.
func TestBadPackedChains(t *testing.T) {
	var split [600]desc // each crosses the seam: two pieces
	for i := range split {
		split[i] = desc{seam - 1, 2, 0, 0}
	}
	const next = fNext
	for _, c := range []struct {
		name     string
		features uint64
		direct   []desc
		indirect []desc
		want     string
	}{
		{"address outside memory", allPacked, []desc{{0, 1, next, 0}, {dataAddr, 1, 0, 0}}, nil, "descriptor 0: guest address 0x0, 0x1 bytes"},
		{"past the end of memory", allPacked, []desc{{memEnd - 4, 5, fWrite, 0}}, nil, "not all of it is guest memory"},
		{"address wraps around", allPacked, []desc{{^uint64(0), 2, 0, 0}}, nil, "not all of it"},
		{"writable before readable", allPacked, []desc{{dataAddr, 1, next | fWrite, 0}, {dataAddr, 1, 0, 0}}, nil, "descriptor 1: device-readable"},
		{"empty writable before readable", allPacked, []desc{{dataAddr, 0, next | fWrite, 0}, {dataAddr, 1, next, 0}, {dataAddr, 1, 0, 0}}, nil, "descriptor 1: device-readable"},
		{"indirect not negotiated", driver.FeatureRingPacked, []desc{{tableAddr, 16, fIndirect, 0}}, []desc{{dataAddr, 1, 0, 0}}, "not negotiated"},
		{"indirect with next", allPacked, []desc{{tableAddr, 16, fIndirect | next, 0}, {dataAddr, 1, 0, 0}}, []desc{{dataAddr, 1, 0, 0}}, "in a chain with others"},
		{"indirect at the end of a chain", allPacked, []desc{{dataAddr, 1, next, 0}, {tableAddr, 16, fIndirect, 0}}, []desc{{dataAddr, 1, 0, 0}}, "descriptor 1: indirect descriptor in a chain with others"},
		{"indirect of no length", allPacked, []desc{{tableAddr, 0, fIndirect, 0}}, nil, "table is empty"},
		{"indirect of half a descriptor", allPacked, []desc{{tableAddr, 24, fIndirect, 0}}, nil, "not a multiple"},
		{"indirect longer than allowed", allPacked, []desc{{tableAddr, 16 * (virtio.MaxChain + 1), fIndirect, 0}}, nil, "too long"},
		{"indirect of 4 GiB", allPacked, []desc{{tableAddr, 0xfffffff0, fIndirect, 0}}, nil, "too long"},
		{"indirect outside memory", allPacked, []desc{{memEnd - 16, 32, fIndirect, 0}}, nil, "not all of it is guest memory"},
		{"indirect, writable before readable", allPacked, []desc{{tableAddr, 32, fIndirect, 0}}, []desc{{dataAddr, 1, fWrite, 0}, {dataAddr, 1, 0, 0}}, "device-readable"},
		{"indirect, a buffer outside memory", allPacked, []desc{{tableAddr, 32, fIndirect, 0}}, []desc{{dataAddr, 1, 0, 0}, {0, 1, 0, 0}}, "guest address 0x0"},
		{"too many pieces", allPacked, []desc{{tableAddr, 16 * 600, fIndirect, 0}}, split[:], "too many memory regions"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, 8, c.features, 0)
			if len(c.indirect) > 0 {
				g.packedTable(tableAddr, c.indirect...)
			}
			got := popPacked(g, c.direct...)
			if got.Err == nil || !strings.Contains(got.Err.Error(), c.want) {
				t.Fatalf("error %v does not say %q", got.Err, c.want)
			}
			checkBad(t, got, 5, c.name == "writable before readable" || c.name == "indirect, writable before readable")
			g.q.Push(5, 0)
			g.q.Publish()
			if _, n, id, flags := g.ring.PackedDesc(0); n != 0 || id != 5 || flags != fAvail|fUsed {
				t.Errorf("used descriptor: length %d, id %d, flags %#x", n, id, flags)
			}
			at := uint16(len(c.direct))
			g.ring.SetPackedDesc(at, dataAddr, 1, 5, fAvail)
			if g.pop(got); got.Err != nil || got.OutBytes != 1 {
				t.Errorf("the next chain: %+v", got)
			}
		})
	}
}

// A direct chain that is longer than the device allows is bad; its end is found
// all the same.
func TestLongPackedChain(t *testing.T) {
	for _, n := range []uint16{virtio.MaxChain, virtio.MaxChain + 1, 2048} {
		g := newRig(t, 2048, allPacked, 0)
		for i := range n {
			flags := uint16(fAvail | fNext)
			if i == n-1 {
				flags = fAvail
			}
			g.ring.SetPackedDesc(i, dataAddr, 1, 5, flags)
		}
		var c virtio.Chain
		g.pop(&c)
		if (c.Err == nil) != (n == virtio.MaxChain) || c.Head != 5 || uint16(g.q.Base())&0x7fff != n%2048 {
			t.Errorf("%d descriptors: head %d, base %#x, %v", n, c.Head, g.q.Base(), c.Err)
		}
	}
}

// "Driver and Device Event Suppression": a call exactly when the descriptor that
// the driver names is among those that were used.
func TestPackedCalls(t *testing.T) {
	const size = 5
	// place is descriptor start+n, as an event structure names it.
	place := func(start uint16, n int) uint32 {
		at := (int(start) + n + 2*size) % (2 * size)
		if at < size {
			return uint32(at) | 1<<15
		}
		return uint32(at - size)
	}
	for start := range uint16(2 * size) {
		for event := -3; event <= 6; event++ {
			for n := 1; n <= size; n++ {
				t.Run(fmt.Sprintf("start %d, event %+d, %d used", start, event, n), func(t *testing.T) {
					g := newRig(t, size, allPacked, (start+2*size-1)%(2*size))
					g.use(1) // the first publication is a case of its own
					g.q.Publish()
					g.harvest()
					g.ring.SetPackedEvent(2<<16 | place(start, event))
					g.use(n)
					want := event >= 0 && event < n
					if got := g.q.Publish(); got != want {
						t.Errorf("call: %v", got)
					}
					if g.q.Publish() {
						t.Error("a call for nothing new")
					}
				})
			}
		}
	}
}

// The other modes, with and without EVENT_IDX, and words that no driver should
// write: rather a call too many than one too few.
func TestPackedCallModes(t *testing.T) {
	for _, c := range []struct {
		features uint64
		word     uint32
		call     bool
	}{
		{driver.FeatureRingPacked, 0, true},
		{driver.FeatureRingPacked, 1 << 16, false},
		{driver.FeatureRingPacked, 2<<16 | 0x8004, true}, // not negotiated
		{driver.FeatureRingPacked, 3 << 16, true},        // reserved
		{allPacked, 0, true},
		{allPacked, 1 << 16, false},
		{allPacked, 1<<16 | 0x8001, false},
		{allPacked, 3 << 16, true},
		{allPacked, 0xfffc << 16, true}, // reserved bits
		{allPacked, 2<<16 | 0x8001, true},
		{allPacked, 2<<16 | 0x8002, false},
		{allPacked, 2<<16 | 0x7fff, false}, // past the ring
	} {
		g := newRig(t, 4, c.features, 0)
		g.use(1)
		g.q.Publish()
		g.harvest()
		g.ring.SetPackedEvent(c.word)
		g.use(1)
		if got := g.q.Publish(); got != c.call {
			t.Errorf("%s, word %#x: call %v", virtio.FeatureString(c.features), c.word, got)
		}
	}
}

// Kicks, both ways, with the driver's side of them.
func TestPackedKicks(t *testing.T) {
	for _, features := range []uint64{driver.FeatureRingPacked, allPacked} {
		for _, size := range []uint16{1, 3, 8} {
			g := newRig(t, size, features, 0)
			add := func() (kick bool) {
				if _, err := g.ring.Add([]driver.Buffer{{GuestAddr: ringAddr, Len: 1}}, nil, 0); err != nil {
					t.Fatal(err)
				}
				return g.ring.Publish()
			}
			drain := func() {
				var c virtio.Chain
				for {
					ok, err := g.q.Pop(&c)
					if err != nil {
						t.Fatal(err)
					}
					if !ok {
						break
					}
					g.q.Push(c.Head, 0)
				}
				g.q.Publish()
				g.harvest()
			}
			for i := range 6 * int(size) {
				if g.q.EnableKicks() {
					t.Fatalf("round %d: pending, but nothing is available", i)
				}
				if !add() {
					t.Fatalf("round %d: no kick, though kicks are enabled", i)
				}
				g.q.DisableKicks()
				drain()
				if add() {
					t.Fatalf("round %d: a kick, though kicks are disabled", i)
				}
				if !g.q.EnableKicks() {
					t.Fatalf("round %d: not pending, though one is available", i)
				}
				drain()
			}
		}
	}
}
