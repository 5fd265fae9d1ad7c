package device

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A packedLife is a device on a packed ring, with its record, that can die between
// any two steps: what it knows is lost then, and ring and record stay.
type packedLife struct {
	t    *rapid.T
	ring *driver.Ring
	cfg  virtio.RingConfig
	file int // of the record
	size uint16

	rec    *inflight.Record
	q      *virtio.Packed
	held   []uint16 // in flight, not pushed
	chain  virtio.Chain
	sent   map[uint16]uint64 // buffer id -> address of its first buffer, as the driver sent it
	staged int
}

// born begins as a worker does.
func (l *packedLife) born() {
	t := l.t
	l.rec = openRecord(t, l.file, 1, l.size)
	var err error
	if l.q, err = virtio.NewPacked(l.cfg); err != nil {
		t.Fatal(err)
	}
	base, ids, err := l.rec.Ring(0).BeginPacked(inflight.Start{Size: l.size, Base: l.cfg.Base, Life: 1}, l.q.Passed)
	if err == nil {
		err = l.q.Rebase(base)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.q.KeepRaw()
	l.held, l.staged = nil, 0
	for _, id := range ids {
		if err := l.q.Retake(id, l.rec.Ring(0).Held(id), &l.chain); err != nil {
			t.Fatal(err)
		}
		l.check("retaken")
		l.held = append(l.held, id)
	}
}

func (l *packedLife) die() {
	if err := l.rec.Close(); err != nil {
		l.t.Fatal(err)
	}
}

// check looks whether the chain is the one that the driver has sent.
func (l *packedLife) check(how string) {
	c := &l.chain
	if c.Err != nil || len(c.Out) == 0 {
		l.t.Fatalf("buffer %d, %s: %v", c.Head, how, c.Err)
	}
	if at, _ := l.cfg.Mem.GuestAddr(c.Out[0]); at != l.sent[c.Head] {
		l.t.Fatalf("buffer %d, %s: at %#x, not %#x", c.Head, how, at, l.sent[c.Head])
	}
}

// A device on a packed ring dies again and again, at any step of taking, giving
// back and publishing: each chain comes back once, to the driver that sent it, and
// whoever goes on finds what was in flight, in the order in which it came.
func TestPackedRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := uint16(rapid.IntRange(1, 12).Draw(t, "size"))
		mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{GuestAddr: 0, Size: 1 << 16, UserAddr: fuzzUser})})
		if err != nil {
			t.Fatal(err)
		}
		const features = driver.FeatureRingPacked | driver.FeatureEventIdx | driver.FeatureIndirectDesc
		ring, err := driver.NewRing(mem, 0, size, features)
		if err != nil {
			t.Fatal(err)
		}
		ring.StartAt(rapid.SampledFrom([]uint32{0x8000_8000, 0, uint32(size-1) * 0x1_0001}).Draw(t, "start"))
		layout := ring.Config()
		l := &packedLife{t: t, ring: ring, size: size, sent: map[uint16]uint64{}, cfg: virtio.RingConfig{
			Size: size, Desc: fuzzUser + layout.Desc, Avail: fuzzUser + layout.Avail, Used: fuzzUser + layout.Used,
			Base: ring.Base(), Features: features, Mem: mem,
		}}
		rec, err := inflight.New(1, size)
		if err != nil {
			t.Fatal(err)
		}
		if l.file, err = unix.FcntlInt(uintptr(rec.FD()), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(l.file) }()
		if err := rec.Close(); err != nil {
			t.Fatal(err)
		}
		l.born()
		defer func() { l.die() }()
		d := &packedDriver{ring: ring, out: map[uint64]bool{}}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			l.step(d, rapid.IntRange(0, 9).Draw(t, "step"))
		}
		// What is left comes back.
		l.die()
		l.born()
		for range 4 {
			l.takeAll()
			l.giveBack(len(l.held), -1)
			d.harvest(l)
		}
		if len(d.out) > 0 {
			t.Fatalf("%d chains never came back", len(d.out))
		}
	})
}

type packedDriver struct {
	ring *driver.Ring
	next uint64
	out  map[uint64]bool
}

// harvest takes what is used: each chain once.
func (d *packedDriver) harvest(l *packedLife) {
	for {
		u, ok := d.ring.Next()
		if !ok {
			break
		}
		if !d.out[u.Token] {
			l.t.Fatalf("chain %d came back twice", u.Token)
		}
		delete(d.out, u.Token)
	}
	if err := d.ring.Err(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *packedLife) step(d *packedDriver, what int) {
	switch what {
	case 0, 1, 2: // the driver sends
		var out []driver.Buffer
		for i := range 1 + what {
			out = append(out, driver.Buffer{GuestAddr: 0x8000 + d.next%0x1000*4 + uint64(i), Len: 1})
		}
		d.next++
		if id, err := d.ring.Add(out, nil, d.next); err == nil {
			d.out[d.next], l.sent[id] = true, out[0].GuestAddr
		}
		d.ring.Publish()
	case 3:
		d.harvest(l)
	case 4:
		l.takeAll()
	case 5, 6:
		l.giveBack(rapid.IntRange(0, len(l.held)).Draw(l.t, "n"), -1)
	default: // it dies in the middle
		if what == 7 {
			l.take(rapid.IntRange(0, 2).Draw(l.t, "dies at"))
		} else {
			l.giveBack(rapid.IntRange(0, len(l.held)).Draw(l.t, "n"), rapid.IntRange(0, 12).Draw(l.t, "dies at"))
		}
		l.die()
		l.born()
	}
}

func (l *packedLife) takeAll() {
	for l.take(-1) {
	}
}

// take takes a chain, but for what comes after step dies.
func (l *packedLife) take(dies int) bool {
	ok, err := l.q.Pop(&l.chain)
	if err != nil {
		l.t.Fatal(err)
	}
	if !ok || dies == 0 {
		return false
	}
	l.check("popped")
	l.rec.Ring(0).Hold(l.chain.Head, l.q.Raw())
	if dies == 1 {
		return false
	}
	l.rec.Ring(0).Take(l.chain.Head)
	l.held = append(l.held, l.chain.Head)
	return true
}

// giveBack gives n chains back and publishes them, but for what comes after so many
// steps.
func (l *packedLife) giveBack(n, dies int) {
	alive := func() bool { dies--; return dies != -1 }
	for range n {
		i := rapid.IntRange(0, len(l.held)-1).Draw(l.t, "which")
		id := l.held[i]
		l.held = append(l.held[:i:i], l.held[i+1:]...)
		if !alive() {
			return
		}
		l.rec.Ring(0).Push(id)
		if !alive() {
			return
		}
		l.q.Push(id, 1)
	}
	if !alive() {
		return
	}
	l.q.Publish()
	if !alive() {
		return
	}
	l.rec.Ring(0).Published()
}

// A record that makes no sense is said to be so, and costs nothing but its queue.
func TestPackedRecordRefused(t *testing.T) {
	for name, c := range map[string]struct {
		words map[int]uint64 // of the record, beside a good one's
		size  uint16
	}{
		"split":              {map[int]uint64{1: 1 | 4<<16}, 4},
		"another ring":       {nil, 5},
		"place":              {map[int]uint64{1: 2 | 4<<48}, 4},
		"batch":              {map[int]uint64{1: 2 | 5<<16}, 4},
		"batch of nothing":   {map[int]uint64{1: 2 | 1<<16 | 9<<32}, 4},
		"descriptors":        {map[int]uint64{2: 1 | 5<<16}, 4},
		"no descriptors":     {map[int]uint64{2: 1}, 4},
		"copies":             {map[int]uint64{2: 1 | 1<<16 | 8<<32}, 4},
		"copies twice":       {map[int]uint64{2: 1 | 1<<16, 4: 1 | 1<<16}, 4},
		"more than the ring": {map[int]uint64{2: 1 | 3<<16, 4: 1 | 2<<16 | 3<<32}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			rec, err := inflight.New(1, 8)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = rec.Close() }()
			ring := transport.Ring{Size: 4, Base: 0x8000_8000, Life: 3}
			yes := func(uint16) bool { return true }
			if base, ids, err := rec.Ring(0).BeginPacked(ring.Start(), yes); err != nil || base != 0x8000_8000 || len(ids) != 0 {
				t.Fatal(base, ids, err)
			}
			b := make([]byte, 8)
			for at, v := range c.words {
				for i := range b {
					b[i] = byte(v >> (8 * i))
				}
				if _, err := unix.Pwrite(rec.FD(), b, int64(8*at)); err != nil {
					t.Fatal(err)
				}
			}
			ring.Size = c.size
			if base, ids, err := rec.Ring(0).BeginPacked(ring.Start(), yes); err == nil {
				t.Errorf("taken: base %#x, %v", base, ids)
			} else if fmt.Sprint(err) == "" {
				t.Error("no reason")
			}
		})
	}
}
