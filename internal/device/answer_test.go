package device

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/recovery"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A rawDesc is one descriptor of a chain that is written by hand.
type rawDesc struct {
	addr  uint64
	len   uint32
	flags uint16 // but for NEXT
}

const (
	rawNext     = 1
	rawWrite    = 2
	rawIndirect = 4
	nowhere     = frontend.GuestBase + 1<<40 // a guest address that no front-end here shares
)

// putRaw makes a chain available, in either format.
func (g *guest) putRaw(chain []rawDesc) {
	ring := g.Queue(0).Ring()
	if !g.Packed() {
		for i, d := range chain {
			if i < len(chain)-1 {
				d.flags |= rawNext
			}
			ring.SetDesc(uint16(i), d.addr, d.len, d.flags, uint16(i+1))
		}
		ring.PutAvail(0)
		ring.Publish()
		return
	}
	for i := len(chain) - 1; i >= 0; i-- {
		d := chain[i]
		if i < len(chain)-1 {
			d.flags |= rawNext
		}
		ring.SetPackedDesc(uint16(i), d.addr, d.len, 0, d.flags|packedAvail)
	}
}

// putTable writes an indirect table for either format at a guest address.
func (g *guest) putTable(b []byte, chain []rawDesc) {
	for i, d := range chain {
		next, flags := uint64(i+1), uint64(d.flags)
		if i < len(chain)-1 {
			flags |= rawNext
		}
		rest := uint64(d.len) | flags<<32 | next<<48
		if g.Packed() {
			rest = uint64(d.len) | flags<<48
		}
		for k := range 8 {
			b[16*i+k], b[16*i+8+k] = byte(d.addr>>(8*k)), byte(rest>>(8*k))
		}
	}
}

// usedRaw says whether the chain of putRaw has come back, and the length with it.
func (g *guest) usedRaw() (written uint32, ok bool) {
	ring := g.Queue(0).Ring()
	if !g.Packed() {
		_, written = ring.UsedEntry(0)
		return written, ring.DeviceIdx() == 1
	}
	_, written, _, flags := ring.PackedDesc(0)
	return written, flags&(1<<15) != 0
}

// drained stops queue 0 once it has seen what is available: answered it, or broken
// the ring over it.
func (g *guest) drained(errs int) {
	g.r.t.Helper()
	q := g.Queue(0)
	base := uint32(0)
	if g.Packed() {
		base = recovery.PackedStart
	}
	for {
		g.kick(0)
		if _, err := q.Stop(); err != nil {
			g.r.t.Fatal(err)
		}
		fds := []unix.PollFd{{Fd: int32(errs), Events: unix.POLLIN}}
		n, _ := unix.Poll(fds, 0)
		if _, back := g.usedRaw(); back || n == 1 {
			return
		}
		if err := q.Start(base); err != nil {
			g.r.t.Fatal(err)
		}
	}
}

// A request that was not carried out is never taken for done: whatever is wrong with
// its chain, it comes back with an error in its status byte, or not at all, and its
// ring stops then, which the front-end is told.
//
// A Linux guest does not fill the status byte in before it sends a request, and
// reads it from every used one, so what comes back without a status has that of an
// earlier request in its place (virtblk_result, drivers/block/virtio_blk.c).
func TestBadRequestIsNeverTakenForDone(t *testing.T) {
	const at = frontend.GuestBase
	type parts struct {
		header, data, status rawDesc
		table, end           uint64 // room for 1,400 descriptors; of memory
	}
	for _, c := range []struct {
		name     string
		answered bool
		indirect bool // the chain stands in a table
		chain    func(p parts) []rawDesc
		ring     func(p parts) []rawDesc // what stands in the ring, if it is not one reference to the table
	}{
		{"data outside memory", true, false, func(p parts) []rawDesc { return []rawDesc{p.header, {nowhere, 4096, 0}, p.status} }, nil},
		{"data outside memory", true, true, func(p parts) []rawDesc { return []rawDesc{p.header, {nowhere, 4096, 0}, p.status} }, nil},
		{"data to be read outside memory", true, false, func(p parts) []rawDesc { return []rawDesc{p.header, {nowhere, 4096, rawWrite}, p.status} }, nil},
		{"header outside memory", true, false, func(p parts) []rawDesc { return []rawDesc{{nowhere, 16, 0}, p.data, p.status} }, nil},
		{"header outside memory", true, true, func(p parts) []rawDesc { return []rawDesc{{nowhere, 16, 0}, p.data, p.status} }, nil},
		{"data outside memory, that wraps around", true, false, func(p parts) []rawDesc { return []rawDesc{p.header, {math.MaxUint64 - 15, 4096, rawWrite}, p.status} }, nil},
		{"1,023 data descriptors", true, true, func(p parts) []rawDesc { return long(p.header, p.data, p.status, 1023) }, nil},
		{"1,200 data descriptors", true, true, func(p parts) []rawDesc { return long(p.header, p.data, p.status, 1200) }, nil},
		{"more than 4 GiB", true, false, func(p parts) []rawDesc {
			return []rawDesc{p.header, {nowhere, math.MaxUint32, rawWrite}, {nowhere, 4096, rawWrite}, p.status}
		}, nil},
		{"data behind the status", true, false, func(p parts) []rawDesc { return []rawDesc{p.header, p.status, p.data} }, nil},
		{"data behind the status", true, true, func(p parts) []rawDesc { return []rawDesc{p.header, p.status, p.data} }, nil},
		{"half a descriptor more in the table", true, true, func(p parts) []rawDesc { return []rawDesc{p.header, p.data, p.status} },
			func(p parts) []rawDesc { return []rawDesc{{p.table, 3*16 + 8, rawIndirect}} }},
		{"a table, then more", true, true, func(p parts) []rawDesc { return []rawDesc{p.header, p.data} },
			func(p parts) []rawDesc { return []rawDesc{{p.table, 2 * 16, rawIndirect}, p.status} }},
		{"a table elsewhere, then the status", true, false, func(p parts) []rawDesc {
			return []rawDesc{p.header, {nowhere, 64, rawIndirect}, p.status}
		}, nil},
		{"short header", true, false, func(p parts) []rawDesc { return []rawDesc{{p.header.addr, 8, 0}, p.status} }, nil},

		{"a status that comes first, in a longer buffer", true, false, func(p parts) []rawDesc {
			return []rawDesc{{p.status.addr - 16, 17, rawWrite}, p.data}
		}, nil},
		{"data that reaches past the end of memory, outside memory", true, false, func(p parts) []rawDesc {
			return []rawDesc{p.header, {p.end - 4, 512, rawWrite}, p.status}
		}, nil},

		{"status outside memory", false, false, func(p parts) []rawDesc { return []rawDesc{p.header, p.data, {nowhere, 1, rawWrite}} }, nil},
		{"status outside memory", false, true, func(p parts) []rawDesc { return []rawDesc{p.header, p.data, {nowhere, 1, rawWrite}} }, nil},
		{"status outside memory, at the end of all addresses", false, false, func(p parts) []rawDesc {
			return []rawDesc{p.header, p.data, {math.MaxUint64 - 3, 4096, rawWrite}}
		}, nil},
		{"no status", false, false, func(p parts) []rawDesc { return []rawDesc{p.header, p.data} }, nil},
		{"no status", false, true, func(p parts) []rawDesc { return []rawDesc{p.header, p.data} }, nil},
		{"no bytes", false, false, func(p parts) []rawDesc { return []rawDesc{{at, 0, 0}, {at, 0, rawWrite}} }, nil},
		{"table outside memory", false, false, func(parts) []rawDesc { return []rawDesc{{nowhere, 64, rawIndirect}} }, nil},
		{"table partly outside memory", false, false, func(p parts) []rawDesc { return []rawDesc{{p.end - 32, 64, rawIndirect}} }, nil},
		{"empty table", false, false, func(p parts) []rawDesc { return []rawDesc{{p.table, 0, rawIndirect}} }, nil},
		{"less than a descriptor of a table", false, false, func(p parts) []rawDesc { return []rawDesc{{p.table, 15, rawIndirect}} }, nil},
	} {
		for _, packed := range []bool{false, true} {
			kind := map[bool]string{false: "split", true: "packed"}[packed] + map[bool]string{false: ", direct", true: ", indirect"}[c.indirect]
			t.Run(fmt.Sprintf("%s, %s", c.name, kind), func(t *testing.T) {
				r := plainRig(t, 1)
				g := r.connect(frontend.Options{Packed: packed})
				errs := g.errFD(0)
				header, b, err := g.Memory.Alloc(64+1400*16, 64)
				if err != nil {
					t.Fatal(err)
				}
				driver.PutHeader(b, driver.TypeOut, 0)
				status := &b[32]
				*status = driver.StatusNone
				p := parts{rawDesc{header, 16, 0}, rawDesc{header + 64, 512, 0}, rawDesc{header + 32, 1, rawWrite}, header + 64, at + g.Memory.Region.Desc().Size}
				chain := c.chain(p)
				if c.indirect {
					g.putTable(b[64:], chain)
					chain = []rawDesc{{p.table, uint32(16 * len(chain)), rawIndirect}}
				}
				if c.ring != nil {
					chain = c.ring(p)
				}
				g.Queue(0).Ring().DisableCalls()
				g.putRaw(chain)
				g.drained(errs)

				written, back := g.usedRaw()
				if back != c.answered {
					t.Fatalf("used: %v, want %v\n%s", back, c.answered, r.book)
				}
				if back {
					if *status != driver.StatusIOErr || written < 1 {
						t.Errorf("used with %d bytes and status %d\n%s", written, *status, r.book)
					}
				} else {
					r.logged("queue 0 is broken and is not served")
					if s, err := g.Client.Status(); err != nil || s&64 == 0 {
						t.Errorf("device status %#x, %v: it needs a reset", s, err)
					}
				}
				if words := "guest memory at"; strings.Contains(c.name, "outside memory") != strings.Contains(r.book.String(), words) {
					t.Errorf("the log says, or does not say, which memory is missing:\n%s", r.book)
				}
				g.vanish()
				r.nextIsServed()
				far, ended := r.dial() // and with that it was reset
				if s := r.dev.NeedsReset(); s {
					t.Error("the device still needs a reset")
				}
				_ = far.Close()
				<-ended
			})
		}
	}
}

// long is a request with n data descriptors.
func long(header, data, status rawDesc, n int) []rawDesc {
	chain := []rawDesc{header}
	for range n {
		chain = append(chain, data)
	}
	return append(chain, status)
}

// A chain that loops or leaves its table has no end that could be seen.
func TestChainWithoutAnEndBreaksTheRing(t *testing.T) {
	for name, put := range map[string]func(r *driver.Ring, mem uint64){
		"loop": func(r *driver.Ring, mem uint64) {
			r.SetDesc(0, mem, 16, rawNext|rawWrite, 1)
			r.SetDesc(1, mem, 16, rawNext|rawWrite, 0)
		},
		"next outside": func(r *driver.Ring, mem uint64) { r.SetDesc(0, mem, 16, rawNext|rawWrite, 128) },
	} {
		t.Run(name, func(t *testing.T) {
			r := plainRig(t, 1)
			g := r.connect(frontend.Options{})
			errs := g.errFD(0)
			ring := g.Queue(0).Ring()
			put(ring, frontend.GuestBase)
			ring.PutAvail(0)
			ring.Publish()
			g.drained(errs)
			if ring.DeviceIdx() != 0 {
				t.Error("it came back")
			}
			r.logged("which stays in the ring")
			g.vanish()
			r.nextIsServed()
		})
	}
}

// The memory that a chain could not do without comes back: the chain is still in the
// ring, and is served.
func TestUnanswerableChainIsServedOnceItsMemoryIsThere(t *testing.T) {
	for _, packed := range []bool{false, true} {
		r := plainRig(t, 1)
		g := r.connect(frontend.Options{Packed: packed})
		errs := g.errFD(0)
		const at = frontend.GuestBase + 1<<32
		header, b, err := g.Memory.Alloc(1024, 64)
		if err != nil {
			t.Fatal(err)
		}
		driver.PutHeader(b, driver.TypeOut, 0)
		g.putRaw([]rawDesc{{header, 16, 0}, {header, 512, 0}, {at, 1, rawWrite}})
		g.drained(errs)
		region, err := g.AddRegion(guestmem.RegionDesc{GuestAddr: at, Size: 4096, UserAddr: frontend.UserBase + 1<<32})
		if err != nil {
			t.Fatal(err)
		}
		base := uint32(0)
		if packed {
			base = recovery.PackedStart
		}
		if err := g.Queue(0).Start(base); err != nil {
			t.Fatal(err)
		}
		g.drained(newEventFD(t))
		if n, back := g.usedRaw(); !back || n != 1 {
			t.Errorf("packed %v: used: %v, %d bytes", packed, back, n)
		}
		g.vanish()
		_ = region.Close()
		r.nextIsServed()
	}
}
