package virtio_test

import (
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// FuzzRing lets a guest write anything into its half of the rings while the
// device works. Whatever it does, the device takes no head twice, holds no more
// than the ring's size, gives back what it took and nothing else, and once it
// calls the ring broken it stays so.
func FuzzRing(f *testing.F) {
	// size and features; then steps of an operation and its argument
	f.Add([]byte{0x83, 0, 0, 1, 0, 4, 0, 4, 0, 5, 0, 6, 0, 7, 0, 0, 1, 1, 0, 4, 0, 8, 0, 5, 1, 6, 0})
	f.Add([]byte{2, 2, 9, 4, 0, 3, 1, 4, 0})
	f.Add([]byte{0x42, 9, 255, 0, 1, 0, 1, 1, 0, 4, 0, 4, 0, 5, 0, 6, 0, 6, 0})
	f.Add([]byte{0xc0, 7, 0, 0, 0, 1, 0, 4, 0, 5, 0, 6, 0, 0, 0, 1, 0, 4, 0, 5, 0, 6, 0, 2, 255, 4, 0, 4, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		size := uint16(1) << (data[0] & 7)
		var features, start uint64
		if data[0]&0x80 != 0 {
			features = allRing
		}
		if data[0]&0x40 != 0 {
			start = 65533
		}
		mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{Size: 1 << 14, UserAddr: userDelta})})
		if err != nil {
			t.Fatal(err)
		}
		ring, err := driver.NewRing(mem, 0, size, features)
		if err != nil {
			t.Fatal(err)
		}
		ring.StartAt(uint32(start))
		q, err := virtio.NewSplit(ringConfig(mem, ring, features))
		if err != nil {
			t.Fatal(err)
		}
		m := ringModel{t: t, q: q, ring: ring, size: size, base: uint16(start), used: uint16(start)}
		for data = data[1:]; len(data) >= 2; data = data[2:] {
			m.step(data[0]%10, data[1])
		}
	})
}

// ringModel is what must hold of a device on a ring.
type ringModel struct {
	t    *testing.T
	q    *virtio.Split
	ring *driver.Ring
	size uint16

	held       []uint16 // heads that the device has
	base, used uint16   // index of the next chain to take, and to give back
	staged     []uint16 // heads that were pushed and not published
	broken     bool
	chain      virtio.Chain
}

func (m *ringModel) step(op, arg byte) {
	t := m.t
	switch op {
	case 0:
		m.ring.PutAvail(uint16(arg))
	case 1:
		m.ring.Publish()
	case 2:
		m.ring.SetAvailIdx(m.base + uint16(int8(arg)))
	case 3:
		m.ring.SetDesc(uint16(arg)%m.size, uint64(arg)<<6, uint32(arg), uint16(arg>>4), uint16(arg>>2))
	case 4:
		ok, err := m.q.Pop(&m.chain)
		if (ok && (err != nil || m.broken)) || (m.broken && err == nil) {
			t.Fatalf("Pop: %v, %v; broken before: %v", ok, err, m.broken)
		}
		m.broken = err != nil
		if !ok {
			break
		}
		for _, h := range m.held {
			if h == m.chain.Head {
				t.Fatalf("head %d taken twice", h)
			}
		}
		if m.held = append(m.held, m.chain.Head); len(m.held) > int(m.size) || m.chain.Head >= m.size {
			t.Fatalf("heads %v of a ring of %d", m.held, m.size)
		}
		m.base++
	case 5:
		if len(m.held) > 0 && len(m.staged) < int(m.size) {
			i := int(arg) % len(m.held)
			m.q.Push(m.held[i], uint32(arg))
			m.staged = append(m.staged, m.held[i])
			m.held = append(m.held[:i], m.held[i+1:]...)
		}
	case 6:
		notify := m.q.Publish()
		if notify && len(m.staged) == 0 {
			t.Fatal("a call for nothing")
		}
		for _, h := range m.staged {
			if id, _ := m.ring.UsedEntry(m.used); id != uint32(h) {
				t.Fatalf("used entry %d is head %d, not %d", m.used, id, h)
			}
			m.used++
		}
		m.staged = m.staged[:0]
	case 7:
		m.q.EnableKicks()
		if m.ring.DeviceFlags() != 0 {
			t.Fatal("flags after EnableKicks")
		}
	case 8:
		m.q.DisableKicks()
	case 9:
		m.ring.SetUsedEvent(uint16(arg) << 8)
	}
	if m.q.Base() != uint32(m.base) {
		t.Fatalf("base %d, not %d", m.q.Base(), m.base)
	}
	if m.ring.DeviceIdx() != m.used {
		t.Fatalf("used index %d, not %d", m.ring.DeviceIdx(), m.used)
	}
}
