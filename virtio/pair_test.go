package virtio_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// An echo device: the bytes of In are those of Out, over and over, each plus 1.
// It completes in any order and in batches of its own, and sleeps as a worker
// does: only after EnableKicks said that nothing is pending.
type echo struct {
	q          virtio.Queue
	rnd        *rand.Rand
	kick, call chan struct{}
	stop       chan struct{}
	held       []*virtio.Chain
	free       []*virtio.Chain
	err        error
}

func (e *echo) run() {
	pending := e.q.EnableKicks()
	for {
		if !pending {
			select {
			case <-e.kick:
			case <-e.stop:
				return
			}
		}
		if e.rnd.IntN(2) == 0 {
			e.q.DisableKicks()
		}
		for {
			c := e.free[len(e.free)-1]
			ok, err := e.q.Pop(c)
			if err != nil {
				e.err = err
				return
			}
			if !ok {
				break
			}
			e.free = e.free[:len(e.free)-1]
			e.held = append(e.held, c)
			if e.rnd.IntN(4) == 0 {
				e.complete(e.rnd.IntN(len(e.held) + 1))
			}
		}
		e.complete(len(e.held))
		pending = e.q.EnableKicks()
	}
}

// complete gives n chains back, in any order, and publishes now and then.
func (e *echo) complete(n int) {
	e.rnd.Shuffle(len(e.held), func(i, j int) { e.held[i], e.held[j] = e.held[j], e.held[i] })
	for range n {
		c := e.held[len(e.held)-1]
		e.held = e.held[:len(e.held)-1]
		e.free = append(e.free, c)
		if c.Err != nil {
			e.err = c.Err
		}
		e.q.Push(c.Head, echoBytes(c))
		if e.rnd.IntN(3) == 0 {
			e.publish()
		}
	}
	e.publish()
}

func (e *echo) publish() {
	if e.q.Publish() {
		select {
		case e.call <- struct{}{}:
		default: // an eventfd counts; one is as good as two
		}
	}
}

func echoBytes(c *virtio.Chain) uint32 {
	var out []byte
	for _, v := range c.Out {
		out = append(out, iovec.Bytes(v)...)
	}
	i := 0
	for _, v := range c.In {
		for j := range iovec.Bytes(v) {
			iovec.Bytes(v)[j] = out[i%len(out)] + 1
			i++
		}
	}
	return uint32(i)
}

// slotBytes is the guest memory of one chain of the driver below: data, then an
// indirect table.
const (
	slotBytes  = 1024
	slotData   = 512
	pairSlots  = 80
	pairMemory = 1 << 17
)

// Driver and device on two goroutines over memory that the race detector
// watches: whatever the framing, the order, the batches, the features and the
// index they begin at, each chain comes back once, with its bytes, and neither
// sleeps for ever.
func TestDriverAndDevice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// In a ring of one entry, used_event shares a word with that entry, which the
		// race detector takes for one variable: not here, see TestAllSizesWrapAround.
		size := uint16(1) << rapid.IntRange(1, 6).Draw(t, "log2 size")
		features := rapid.SampledFrom([]uint64{0, driver.FeatureEventIdx}).Draw(t, "features") | driver.FeatureIndirectDesc
		if rapid.Bool().Draw(t, "packed") {
			features |= driver.FeatureRingPacked
			size = uint16(rapid.IntRange(1, 70).Draw(t, "size"))
		}
		start := rapid.SampledFrom([]uint16{0, 1, 65400, 65535 - 31, 65535, 32767}).Draw(t, "start")
		seed := rapid.Uint64().Draw(t, "seed")
		chains := rapid.IntRange(1, 600).Draw(t, "chains")

		mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{Size: pairMemory, UserAddr: userDelta})})
		if err != nil {
			t.Fatal(err)
		}
		ring, err := driver.NewRing(mem, 0, size, features)
		if err != nil {
			t.Fatal(err)
		}
		ring.StartAt(baseOf(size, features, start))
		q, err := virtio.NewQueue(ringConfig(mem, ring, features))
		if err != nil {
			t.Fatal(err)
		}
		e := &echo{q: q, rnd: rand.New(rand.NewPCG(seed, 1)), kick: make(chan struct{}, 1), call: make(chan struct{}, 1), stop: make(chan struct{})}
		for range int(size) + 1 {
			e.free = append(e.free, new(virtio.Chain))
		}
		var wg sync.WaitGroup
		wg.Go(e.run)
		d := &pairDriver{packed: features&driver.FeatureRingPacked != 0, mem: mem, ring: ring, rnd: rand.New(rand.NewPCG(seed, 2)), base: driver.RingBytes(size)}
		err = d.run(chains, e.kick, e.call)
		close(e.stop)
		wg.Wait()
		if e.err != nil {
			t.Fatalf("device: %v", e.err)
		}
		if err != nil {
			t.Fatalf("driver: %v", err)
		}
		if got, want := q.Base(), ring.Base(); got != want {
			t.Fatalf("base %#x, not %#x", got, want)
		}
	})
}

// A pairDriver adds chains of random framing and checks what comes back.
type pairDriver struct {
	mem    *guestmem.Memory
	ring   *driver.Ring
	rnd    *rand.Rand
	base   uint64
	packed bool
	want   [pairSlots][]byte // what the device must have written, nil: slot free
	in     [pairSlots][]driver.Buffer
}

func (d *pairDriver) run(chains int, kick, call chan struct{}) error {
	d.ring.DisableCalls()
	for added, back := 0, 0; back < chains; {
		for range d.rnd.IntN(10) {
			if added == chains {
				break
			}
			ok, err := d.add()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			added++
		}
		if d.ring.Publish() {
			select {
			case kick <- struct{}{}:
			default:
			}
		}
		n, err := d.harvest()
		if err != nil {
			return err
		}
		back += n
		// Nothing to harvest, and nothing more to add or no room: sleep.
		if n == 0 && back < chains && (added == chains || d.ring.Free() == 0) {
			if !d.ring.EnableCalls() {
				<-call
			}
			d.ring.DisableCalls()
		}
	}
	return d.ring.Err()
}

// add makes one chain; it is false when there is no room.
func (d *pairDriver) add() (bool, error) {
	slot := -1
	for i := range d.want {
		if d.want[i] == nil {
			slot = i
			break
		}
	}
	if slot < 0 {
		return false, nil
	}
	at := d.base + uint64(slot)*slotBytes
	data, err := d.mem.Bytes(at, slotData)
	if err != nil {
		return false, err
	}
	out := d.cut(at, 1+d.rnd.IntN(slotData/2), 6)
	in := d.cut(at+slotData/2, d.rnd.IntN(slotData/2), 6)
	var sent []byte
	for _, b := range out {
		p := data[b.GuestAddr-at:][:b.Len]
		for i := range p {
			p[i] = byte(d.rnd.Uint32())
		}
		sent = append(sent, p...)
	}
	want := []byte{}
	for _, b := range in {
		for range b.Len {
			want = append(want, sent[len(want)%len(sent)]+1)
		}
	}
	if n := len(out) + len(in); n <= d.ring.Free() && d.rnd.IntN(2) == 0 {
		_, err = d.ring.Add(out, in, uint64(slot))
	} else {
		direct := 0
		if !d.packed {
			direct = d.rnd.IntN(min(n, d.ring.Free()+1))
		}
		_, err = d.ring.AddIndirect(direct, driver.Buffer{GuestAddr: at + slotData, Len: slotBytes - slotData}, out, in, uint64(slot))
	}
	if err == driver.ErrFull {
		return false, nil
	}
	d.want[slot], d.in[slot] = want, in
	return err == nil, err
}

// cut divides n bytes at addr into up to k buffers, some of them empty.
func (d *pairDriver) cut(addr uint64, n, k int) []driver.Buffer {
	var bufs []driver.Buffer
	for n > 0 {
		m := n
		if k--; k > 0 {
			m = d.rnd.IntN(n + 1)
		}
		bufs = append(bufs, driver.Buffer{GuestAddr: addr, Len: uint32(m)})
		addr, n = addr+uint64(m), n-m
	}
	return bufs
}

func (d *pairDriver) harvest() (n int, err error) {
	for {
		u, ok := d.ring.Next()
		if !ok {
			return n, d.ring.Err()
		}
		n++
		want := d.want[u.Token]
		if want == nil {
			return n, fmt.Errorf("token %d came back twice", u.Token)
		}
		var got []byte
		for _, b := range d.in[u.Token] {
			if b.Len > 0 {
				p, err := d.mem.Bytes(b.GuestAddr, uint64(b.Len))
				if err != nil {
					return n, err
				}
				got = append(got, p...)
			}
		}
		if string(got) != string(want) || int(u.Written) != len(want) {
			return n, fmt.Errorf("token %d: %d bytes written, %x, not %x", u.Token, u.Written, got, want)
		}
		d.want[u.Token] = nil
	}
}
