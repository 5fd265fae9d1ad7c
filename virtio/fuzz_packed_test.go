package virtio_test

import (
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// FuzzPackedRing lets a guest write anything into a packed ring while the device
// works. Whatever it does, the device takes no buffer twice, holds no more
// descriptors than the ring has, gives back what it took and nothing else, each
// in its place, and once it calls the ring broken it stays so.
func FuzzPackedRing(f *testing.F) {
	// size and features; then steps of an operation and its two arguments
	f.Add([]byte{0x83, 0, 0, 0, 0, 1, 1, 1, 0, 0, 2, 0, 0, 2, 0, 0, 3, 0, 9, 4, 0, 0, 5, 0, 0, 6, 0, 0})
	f.Add([]byte{0x45, 0, 0x10, 0, 0, 0x11, 1, 0, 2, 2, 2, 0, 0, 3, 1, 0, 4, 0, 0})
	f.Add([]byte{0xc1, 0, 0, 0, 2, 0, 0, 3, 0, 7, 4, 0, 0, 0, 0, 0, 2, 0, 0, 2, 0, 0, 7, 0x80, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		size := uint16(data[0]&0x1f) + 1
		features, start := uint64(driver.FeatureRingPacked), uint16(0)
		if data[0]&0x80 != 0 {
			features = allPacked
		}
		if data[0]&0x40 != 0 {
			start = 2*size - 1
		}
		mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{Size: 1 << 14, UserAddr: userDelta})})
		if err != nil {
			t.Fatal(err)
		}
		ring, err := driver.NewRing(mem, 0, size, features)
		if err != nil {
			t.Fatal(err)
		}
		ring.StartAt(baseOf(size, features, start))
		q, err := virtio.NewPacked(ringConfig(mem, ring, features))
		if err != nil {
			t.Fatal(err)
		}
		m := packedModel{t: t, q: q, ring: ring, size: int(size), next: int(start), used: int(start), shown: int(start)}
		for data = data[1:]; len(data) >= 3; data = data[3:] {
			m.step(data[0]%9, data[1], data[2])
		}
	})
}

// packedModel is what must hold of a device on a packed ring. Places count on for
// ever; a lap is size of them, and those of even laps have wrap counter 1.
type packedModel struct {
	t    *testing.T
	q    *virtio.Packed
	ring *driver.Ring
	size int

	next, used, shown int
	held              []heldChain
	staged            []heldChain
	broken            bool
	chain             virtio.Chain
}

type heldChain struct {
	id        uint16
	descs, at int
	written   uint32
}

// wrap is the wrap counter at a place.
func (m *packedModel) wrap(place int) bool { return place/m.size%2 == 0 }

func (m *packedModel) word(place int) uint32 {
	w := uint32(place % m.size)
	if m.wrap(place) {
		w |= 1 << 15
	}
	return w
}

func (m *packedModel) step(op, a, b byte) {
	t := m.t
	switch op {
	case 0, 1: // a descriptor where the device looks, or close to it
		at := m.next + int(a>>4)
		flags := uint16(b)&(fNext|fWrite|fIndirect) | uint16(fUsed)
		if m.wrap(at) != (b&0x80 != 0) {
			flags ^= fUsed | fAvail
		}
		m.ring.SetPackedDesc(uint16(at%m.size), uint64(b)<<6, uint32(a)<<4, uint16(a&0xf), flags)
	case 2:
		m.pop()
	case 3:
		if len(m.held) > 0 {
			i := int(a) % len(m.held)
			h := m.held[i]
			h.at, h.written = m.used, uint32(b)
			m.held = append(m.held[:i], m.held[i+1:]...)
			m.q.Push(h.id, h.written)
			m.staged = append(m.staged, h)
			m.used += h.descs
		}
	case 4:
		m.publish()
	case 5:
		m.q.EnableKicks()
		if got, want := m.ring.PackedEvent()>>16, m.ring.PackedEvent()&0xffff; got != 0 && (got != 2 || want != m.word(m.next)) {
			t.Fatalf("event %#x after EnableKicks at %d", m.ring.PackedEvent(), m.next)
		}
	case 6:
		m.q.DisableKicks()
		if m.ring.PackedEvent() != 1<<16 {
			t.Fatalf("event %#x after DisableKicks", m.ring.PackedEvent())
		}
	case 7:
		m.ring.SetPackedEvent(uint32(a)<<8 | uint32(b)<<16)
	case 8: // anything anywhere
		m.ring.SetPackedDesc(uint16(int(a)%m.size), uint64(b)<<7, uint32(b)<<3, uint16(b), uint16(a)<<8|uint16(b))
	}
	if got, want := m.q.Base(), m.word(m.next)|m.word(m.shown)<<16; got != want {
		t.Fatalf("base %#x, not %#x", got, want)
	}
}

func (m *packedModel) pop() {
	t := m.t
	ok, err := m.q.Pop(&m.chain)
	if (ok && (err != nil || m.broken)) || (m.broken && err == nil) {
		t.Fatalf("Pop: %v, %v; broken before: %v", ok, err, m.broken)
	}
	m.broken = err != nil
	if !ok {
		return
	}
	id := m.chain.Head
	if int(id) >= m.size {
		t.Fatalf("buffer %d of a ring of %d", id, m.size)
	}
	for _, h := range m.held {
		if h.id == id {
			t.Fatalf("buffer %d taken twice", id)
		}
	}
	n := (int(m.q.Base()&0x7fff) - m.next%m.size + m.size) % m.size
	if n == 0 {
		n = m.size
	}
	m.held = append(m.held, heldChain{id: id, descs: n})
	m.next += n
	if m.next-m.shown > m.size {
		t.Fatalf("%d descriptors taken of a ring of %d", m.next-m.shown, m.size)
	}
}

func (m *packedModel) publish() {
	t := m.t
	notify := m.q.Publish()
	if notify && len(m.staged) == 0 {
		t.Fatal("a call for nothing")
	}
	for _, h := range m.staged {
		_, _, id, flags := m.ring.PackedDesc(uint16(h.at % m.size))
		want := uint16(0)
		if m.wrap(h.at) {
			want = fAvail | fUsed
		}
		if h.written > 0 {
			want |= fWrite
		}
		// The guest may have written over what Push has put there, but not over what
		// Publish has just stored.
		if h.at == m.shown && (id != h.id || flags != want) {
			t.Fatalf("used descriptor %d is id %d, flags %#x, not %+v", h.at, id, flags, h)
		}
	}
	m.shown, m.staged = m.used, m.staged[:0]
}
