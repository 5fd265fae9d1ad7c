package virtio_test

import (
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

const (
	fNext     = 1
	fWrite    = 2
	fIndirect = 4
)

// A desc is a struct virtq_desc.
type desc struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// table writes descriptors at a guest address.
func (g *rig) table(addr uint64, ds ...desc) {
	g.t.Helper()
	for i, d := range ds {
		b := g.bytes(driver.Buffer{GuestAddr: addr + uint64(i)*16, Len: 16})
		putDesc(b, d)
	}
}

func putDesc(b []byte, d desc) {
	for i := range 8 {
		b[i] = byte(d.addr >> (8 * i))
	}
	for i := range 4 {
		b[8+i] = byte(d.len >> (8 * i))
	}
	b[12], b[13], b[14], b[15] = byte(d.flags), byte(d.flags>>8), byte(d.next), byte(d.next>>8)
}

// popRaw lets the device take the chain that begins at descriptor 0 of ds.
func popRaw(g *rig, ds ...desc) *virtio.Chain {
	g.t.Helper()
	for i, d := range ds {
		g.ring.SetDesc(uint16(i), d.addr, d.len, d.flags, d.next)
	}
	g.ring.PutAvail(0)
	g.ring.Publish()
	c := new(virtio.Chain)
	g.pop(c)
	return c
}

const (
	dataAddr  = 0x20000 // of these tests' buffers
	tableAddr = 0x30000 // and indirect tables
)

// What the specification allows. Sections are of "Split Virtqueues".
func TestChains(t *testing.T) {
	long := make([]desc, virtio.MaxChain)
	for i := range long {
		long[i] = desc{dataAddr, 1, fNext, uint16(i + 1)}
	}
	long[len(long)-1].flags = 0
	for _, c := range []struct {
		name     string // and section
		direct   []desc
		indirect []desc
		out, in  uint64
		pieces   [2]int
	}{
		{"one readable", []desc{{dataAddr, 7, 0, 9}}, nil, 7, 0, [2]int{1, 0}},
		{"one writable", []desc{{dataAddr, 7, fWrite, 9}}, nil, 0, 7, [2]int{0, 1}},
		{"readable, then writable (Message Framing)",
			[]desc{{dataAddr, 1, fNext, 2}, {dataAddr, 4, fWrite, 0}, {dataAddr, 2, fNext, 1}}, nil, 3, 4, [2]int{2, 1}},
		{"as long as the ring (Descriptor Table)",
			[]desc{{dataAddr, 1, fNext, 1}, {dataAddr, 1, fNext, 2}, {dataAddr, 1, fNext, 3}, {dataAddr, 1, fNext, 4}, {dataAddr, 1, fNext, 5}, {dataAddr, 1, fNext, 6}, {dataAddr, 1, fNext, 7}, {dataAddr, 1, fWrite, 0}},
			nil, 7, 1, [2]int{7, 1}},
		{"no bytes anywhere", []desc{{^uint64(0), 0, fNext, 1}, {0, 0, fWrite, 0}}, nil, 0, 0, [2]int{0, 0}},
		{"no bytes in between", []desc{{dataAddr, 3, fNext, 1}, {dataAddr, 0, fNext, 2}, {dataAddr, 5, fWrite, 0}}, nil, 3, 5, [2]int{1, 1}},
		{"unknown flags", []desc{{dataAddr, 3, 0xfff8, 1}}, nil, 3, 0, [2]int{1, 0}},
		{"across two regions", []desc{{seam - 8, 16, fWrite, 0}}, nil, 0, 16, [2]int{0, 2}},
		{"indirect (Indirect Descriptors)",
			[]desc{{tableAddr, 32, fIndirect, 0}}, []desc{{dataAddr, 3, fNext, 1}, {dataAddr, 5, fWrite, 0}}, 3, 5, [2]int{1, 1}},
		{"indirect, write flag of no meaning",
			[]desc{{tableAddr, 32, fIndirect | fWrite, 0}}, []desc{{dataAddr, 3, fNext, 1}, {dataAddr, 5, fWrite, 0}}, 3, 5, [2]int{1, 1}},
		{"direct, then indirect (device MUST handle)",
			[]desc{{dataAddr, 1, fNext, 1}, {dataAddr, 1, fNext, 2}, {tableAddr, 32, fIndirect, 0}}, []desc{{dataAddr, 3, fNext, 1}, {dataAddr, 5, fWrite, 0}}, 5, 5, [2]int{3, 1}},
		{"indirect in any order, with entries unused",
			[]desc{{tableAddr, 64, fIndirect, 0}}, []desc{{dataAddr, 3, fNext, 3}, {}, {dataAddr, 9, fWrite, 0}, {dataAddr, 5, fNext, 2}}, 8, 9, [2]int{2, 1}},
		{"indirect, longer than the ring (Linux)",
			[]desc{{tableAddr, virtio.MaxChain * 16, fIndirect, 0}}, long, virtio.MaxChain, 0, [2]int{virtio.MaxChain, 0}},
		{"indirect table across two regions",
			[]desc{{seam - 24, 48, fIndirect, 0}}, []desc{{dataAddr, 3, fNext, 1}, {dataAddr, 4, fNext, 2}, {dataAddr, 5, fWrite, 0}}, 7, 5, [2]int{2, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, 8, allRing, 0)
			if len(c.indirect) > 0 {
				addr := c.direct[len(c.direct)-1].addr
				for i, d := range c.indirect {
					var b [16]byte
					putDesc(b[:], d)
					for j, x := range b {
						g.bytes(driver.Buffer{GuestAddr: addr + uint64(16*i+j), Len: 1})[0] = x
					}
				}
			}
			got := popRaw(g, c.direct...)
			if got.Err != nil {
				t.Fatal(got.Err)
			}
			if got.OutBytes != c.out || got.InBytes != c.in {
				t.Errorf("%d bytes out, %d in; not %d and %d", got.OutBytes, got.InBytes, c.out, c.in)
			}
			if len(got.Out) != c.pieces[0] || len(got.In) != c.pieces[1] {
				t.Errorf("%d pieces out, %d in; not %v", len(got.Out), len(got.In), c.pieces)
			}
		})
	}
}

// What it forbids costs the request, never the ring, of whoever does not ask for more
// (RingConfig.Answers). Only a chain whose end was seen has a byte for its status.
func TestBadChains(t *testing.T) {
	var longer [virtio.MaxChain + 1]desc
	for i := range longer {
		longer[i] = desc{dataAddr, 0, fNext, uint16(i + 1)}
	}
	longer[virtio.MaxChain].flags = 0
	var split [600]desc // each crosses the seam: two pieces
	for i := range split {
		split[i] = desc{seam - 1, 2, fNext, uint16(i + 1)}
	}
	split[len(split)-1].flags = 0
	for _, c := range []struct {
		name     string
		features uint64
		direct   []desc
		indirect []desc
		want     string
	}{
		{"loop of one", allRing, []desc{{dataAddr, 1, fNext, 0}}, nil, "loops"},
		{"loop of two, without bytes", allRing, []desc{{0, 0, fNext, 1}, {0, 0, fNext, 0}}, nil, "loops"},
		{"next past the table", allRing, []desc{{dataAddr, 1, fNext, 8}}, nil, "descriptor 0: next descriptor lies outside"},
		{"next 65535", allRing, []desc{{dataAddr, 1, fNext, 65535}}, nil, "outside"},
		{"address outside memory", allRing, []desc{{0, 1, 0, 0}}, nil, "guest address 0x0, 0x1 bytes"},
		{"past the end of memory", allRing, []desc{{memEnd - 4, 5, fWrite, 0}}, nil, "not all of it is guest memory"},
		{"address wraps around", allRing, []desc{{^uint64(0), 2, 0, 0}}, nil, "not all of it"},
		{"writable before readable", allRing, []desc{{dataAddr, 1, fNext | fWrite, 1}, {dataAddr, 1, 0, 0}}, nil, "descriptor 1: device-readable"},
		{"empty writable before readable", allRing, []desc{{dataAddr, 0, fNext | fWrite, 1}, {dataAddr, 1, 0, 0}}, nil, "device-readable"},
		{"indirect not negotiated", 0, []desc{{tableAddr, 16, fIndirect, 0}}, []desc{{dataAddr, 1, 0, 0}}, "not negotiated"},
		{"indirect with next", allRing, []desc{{tableAddr, 16, fIndirect | fNext, 1}}, []desc{{dataAddr, 1, 0, 0}}, "also has a next"},
		{"indirect in indirect", allRing, []desc{{tableAddr, 16, fIndirect, 0}}, []desc{{tableAddr, 16, fIndirect, 0}}, "inside an indirect table"},
		{"indirect of no length", allRing, []desc{{tableAddr, 0, fIndirect, 0}}, nil, "table is empty"},
		{"indirect of half a descriptor", allRing, []desc{{tableAddr, 24, fIndirect, 0}}, []desc{{dataAddr, 1, 0, 0}}, "not a multiple"},
		{"indirect longer than allowed", allRing, []desc{{tableAddr, 16 * (virtio.MaxChain + 1), fIndirect, 0}}, nil, "too long"},
		{"indirect of 4 GiB", allRing, []desc{{tableAddr, 0xfffffff0, fIndirect, 0}}, nil, "too long"},
		{"indirect outside memory", allRing, []desc{{memEnd - 16, 32, fIndirect, 0}}, nil, "not all of it is guest memory"},
		{"indirect loop", allRing, []desc{{tableAddr, 32, fIndirect, 0}}, []desc{{dataAddr, 1, fNext, 1}, {dataAddr, 1, fNext, 0}}, "loops"},
		{"indirect next past the table", allRing, []desc{{tableAddr, 32, fIndirect, 0}}, []desc{{dataAddr, 1, fNext, 2}}, "outside the table"},
		{"direct and indirect together too long", allRing,
			[]desc{{dataAddr, 1, fNext, 1}, {tableAddr, 16 * virtio.MaxChain, fIndirect, 0}}, longer[:virtio.MaxChain], "more descriptors"},
		{"too many pieces", allRing, []desc{{tableAddr, 16 * 600, fIndirect, 0}}, split[:], "too many memory regions"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, 8, c.features, 0)
			g.table(tableAddr, c.indirect...)
			got := popRaw(g, c.direct...)
			if got.Err == nil || !strings.Contains(got.Err.Error(), c.want) {
				t.Fatalf("error %v does not say %q", got.Err, c.want)
			}
			status := c.name == "writable before readable"
			checkBad(t, got, 0, status)
			// Decode and Complete answer it where that can be, and the ring goes on.
			r := virtio.BlkRequest{Chain: *got}
			if newBlk(t, plainDisk()).Decode(&r) || r.Err == nil || (r.Complete() == 1) != status {
				t.Error("a bad chain is not finished in place")
			}
			g.q.Push(0, 0)
			g.ring.SetDesc(0, dataAddr, 1, 0, 0)
			g.ring.PutAvail(0)
			g.ring.Publish()
			if g.pop(got); got.Err != nil || got.OutBytes != 1 {
				t.Errorf("the next chain: %+v", got)
			}
		})
	}
}

// checkBad checks what is left of a bad chain: the byte for its status, if any.
func checkBad(t *testing.T, c *virtio.Chain, head uint16, status bool) {
	t.Helper()
	n := uint64(0)
	if status {
		n = 1
	}
	if c.Head != head || c.OutBytes != 0 || c.InBytes != n || len(c.Out) != 0 || len(c.In) != int(n) || n == 1 && c.In[0].Len != 1 {
		t.Errorf("what is left of a bad chain: %+v", c)
	}
}

// "Drivers MUST NOT add a descriptor chain longer than 2^32 bytes in total."
func TestChainTotal(t *testing.T) {
	mem, _ := fileMemory(t, 1<<31) // sparse
	ring, err := driver.NewRing(mem, 0, 4, 0)
	if err != nil {
		t.Fatal(err)
	}
	q, err := virtio.NewSplit(ringConfig(mem, ring, 0))
	if err != nil {
		t.Fatal(err)
	}
	var c virtio.Chain
	for _, last := range []uint32{2, 3} {
		head, err := ring.Add([]driver.Buffer{{GuestAddr: 0, Len: 1 << 31}, {GuestAddr: 0, Len: 1<<31 - 2}}, []driver.Buffer{{GuestAddr: 0, Len: last}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		ring.Publish()
		if ok, err := q.Pop(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if good := last == 2; (c.Err == nil) != good {
			t.Errorf("%d bytes over 2^32: %v", last-2, c.Err)
		}
		q.Push(head, 0)
		q.Publish()
		ring.Next()
	}
}
