package virtio_test

import (
	"bytes"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Everything that a device changes in guest memory is on a page that is marked,
// in either format: what requests are answered with, used entries and
// descriptors, indices, events. And no page is marked that nothing was written
// to, but those of buffers that could have been.
func TestLogCoversAllWrites(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		features := rapid.SampledFrom([]uint64{0, driver.FeatureEventIdx}).Draw(rt, "features") | driver.FeatureIndirectDesc
		size := uint16(1) << rapid.IntRange(0, 10).Draw(rt, "log2 size")
		packed := rapid.Bool().Draw(rt, "packed")
		if packed {
			features |= driver.FeatureRingPacked
		}
		g := newRig(t, size, features, rapid.SampledFrom([]uint16{0, 3, 65535}).Draw(rt, "start"))
		log := guestmem.HeapLog(memEnd / guestmem.LogPageBytes / 8)
		cfg := ringConfig(g.mem, g.ring, features)
		cfg.Log, cfg.UsedLog = log, g.ring.Config().Used
		ringLogged := rapid.Bool().Draw(rt, "used ring")
		if !ringLogged {
			cfg.UsedLog = guestmem.Unlogged
		}
		var err error
		if g.q, err = virtio.NewQueue(cfg); err != nil {
			rt.Fatal(err)
		}
		low, high := g.bytes(driver.Buffer{GuestAddr: ringAddr, Len: seam - ringAddr}), g.bytes(driver.Buffer{GuestAddr: seam, Len: memEnd - seam})
		b := newBlk(t, zonedDisk())
		var r virtio.BlkRequest
		may := map[uint64]bool{} // pages that may be marked
		pages := func(buf driver.Buffer) {
			for page := buf.GuestAddr / guestmem.LogPageBytes; page <= (buf.GuestAddr+uint64(buf.Len)-1)/guestmem.LogPageBytes; page++ {
				may[page] = true
			}
		}
		l := g.ring.Config()
		pages(driver.Buffer{GuestAddr: l.Used, Len: 6 + 8*uint32(size)})
		usedPages := maps.Clone(may)
		if packed {
			pages(driver.Buffer{GuestAddr: l.Desc, Len: 16 * uint32(size)})
		}
		scratch := func() driver.Buffer {
			return driver.Buffer{GuestAddr: rapid.Uint64Range(0x30000, memEnd-10000).Draw(rt, "at"), Len: uint32(rapid.IntRange(1, 9000).Draw(rt, "len"))}
		}
		before := make([]byte, memEnd-ringAddr)
		check := func(step string) { // what a step of the device has changed and marked
			const size = guestmem.LogPageBytes
			for page := uint64(0); page < memEnd/size; page++ {
				marked := log.Dirty(page)
				if marked && !may[page] {
					rt.Fatalf("%s: page %#x is marked, which nothing was written to", step, page)
				}
				if page < ringAddr/size {
					continue
				}
				at := page*size - ringAddr
				now := g.bytes(driver.Buffer{GuestAddr: page * size, Len: size})
				if bytes.Equal(before[at:at+size], now) {
					continue
				}
				copy(before[at:], now)
				if !marked && (ringLogged || !usedPages[page]) {
					rt.Fatalf("%s: page %#x was changed, and is not marked", step, page)
				}
			}
		}
		for range rapid.IntRange(1, 6).Draw(rt, "rounds") {
			n := uint64(rapid.IntRange(1, min(3, int(size))).Draw(rt, "chains"))
			for i := range n {
				data, foot, head := scratch(), driver.Buffer{GuestAddr: 0x28000 + 16*i, Len: 16}, driver.Buffer{GuestAddr: 0x29000 + 16*i, Len: 16}
				typ := rapid.SampledFrom([]uint32{driver.TypeIn, driver.TypeOut, driver.TypeZoneReport, driver.TypeZoneAppend, driver.TypeGetID, 99}).Draw(rt, "type")
				driver.PutHeader(g.bytes(head), typ, 2048)
				out, in := []driver.Buffer{head}, []driver.Buffer{data, foot}
				if typ == driver.TypeOut || typ == driver.TypeZoneAppend {
					out, in = []driver.Buffer{head, data}, []driver.Buffer{foot}
				}
				if _, err := g.ring.AddIndirect(0, driver.Buffer{GuestAddr: 0x2a000 + 48*i, Len: 48}, out, in, 0); err != nil {
					rt.Fatal(err)
				}
				for _, b := range in {
					pages(b)
				}
			}
			g.ring.Publish()
			copy(before[copy(before, low):], high)
			g.q.DisableKicks()
			check("DisableKicks")
			for range n {
				g.pop(&r.Chain)
				if b.Decode(&r) {
					r.AppendSector = 4711
					for _, v := range r.Iov {
						if r.Op == disk.OpRead {
							copy(iovec.Bytes(v), bytes.Repeat([]byte{0x11, 0x22, 0x33}, 3000))
						}
					}
				}
				g.q.Push(r.Chain.Head, r.Complete())
				check("Push")
			}
			g.q.Publish()
			check("Publish")
			g.q.EnableKicks()
			check("EnableKicks")
			for range n {
				g.used()
			}
		}
	})
}

// Where the used ring is marked is the front-end's word: it need not be where the
// guest has it ("log_guest_addr should be used"), and what the log does not cover
// is left out.
func TestLogOfUsedRing(t *testing.T) {
	for _, features := range []uint64{allRing, allPacked} {
		for _, at := range []uint64{0, 4096 * 5, 1 << 40} {
			g := newRig(t, 4, features, 0)
			log := guestmem.HeapLog(1) // 8 pages
			cfg := ringConfig(g.mem, g.ring, features)
			cfg.Log, cfg.UsedLog = log, at
			q, err := virtio.NewQueue(cfg)
			if err != nil {
				t.Fatal(err)
			}
			g.q = q
			g.use(1)
			g.q.Publish()
			g.q.EnableKicks()
			for page := range uint64(8) {
				if got := log.Dirty(page); got != (page*4096 == at) {
					t.Errorf("%s, log at %#x: page %d: %v", virtio.FeatureString(features), at, page, got)
				}
			}
		}
	}
}

// A log costs no allocation either, once it is warm.
func TestLogDoesNotAllocate(t *testing.T) {
	for _, features := range []uint64{allRing, allPacked} {
		g := newRig(t, 4, features, 0)
		cfg := ringConfig(g.mem, g.ring, features)
		cfg.Log, cfg.UsedLog = guestmem.HeapLog(64), g.ring.Config().Used
		q, err := virtio.NewQueue(cfg)
		if err != nil {
			t.Fatal(err)
		}
		in := []driver.Buffer{g.alloc(64), {GuestAddr: seam - 4, Len: 8}}
		var c virtio.Chain
		if n := testing.AllocsPerRun(50, func() {
			if _, err := g.ring.Add(nil, in, 0); err != nil {
				t.Fatal(err)
			}
			g.ring.Publish()
			if ok, err := q.Pop(&c); !ok || err != nil {
				t.Fatal(ok, err)
			}
			q.Push(c.Head, 8)
			q.Publish()
			g.used()
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}
