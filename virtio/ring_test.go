package virtio_test

import (
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// What holds for rings of either format.

// The largest ring, full, around the ends of its counters.
func TestLargestRingFull(t *testing.T) {
	for _, c := range []struct {
		name     string
		features uint64
		start    uint32
	}{
		{"split", allRing, 50000},
		{"packed", allPacked, 0x7fff | 0x7fff<<16},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{GuestAddr: 0, Size: 1 << 20, UserAddr: userDelta})})
			if err != nil {
				t.Fatal(err)
			}
			ring, err := driver.NewRing(mem, 0, 32768, c.features)
			if err != nil {
				t.Fatal(err)
			}
			ring.StartAt(c.start)
			q, err := virtio.NewQueue(ringConfig(mem, ring, c.features))
			if err != nil {
				t.Fatal(err)
			}
			one := []driver.Buffer{{GuestAddr: 0, Len: 1}}
			for i := range uint64(32768) {
				if _, err := ring.Add(one, nil, i); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := ring.Add(one, nil, 0); err != driver.ErrFull {
				t.Fatalf("a full ring takes more: %v", err)
			}
			ring.EnableCalls()
			if !ring.Publish() {
				t.Error("no kick after 32768 chains")
			}
			var chain virtio.Chain
			for range 32768 {
				if ok, err := q.Pop(&chain); !ok || err != nil {
					t.Fatal(ok, err)
				}
				q.Push(chain.Head, 0)
			}
			if ok, err := q.Pop(&chain); ok || err != nil {
				t.Fatal(ok, err)
			}
			if !q.Publish() {
				t.Error("no call after 32768 chains")
			}
			for i := range uint64(32768) {
				if u, ok := ring.Next(); !ok || u.Token != i {
					t.Fatalf("chain %d: %+v, %v, %v", i, u, ok, ring.Err())
				}
			}
		})
	}
}

// broken checks that the ring has ended with an error that says want, does not go on
// once mend has put it right, and has lost nothing of where it stood.
func (g *rig) broken(want string, mend func()) {
	g.t.Helper()
	var chain virtio.Chain
	base := g.q.Base()
	for range 2 {
		ok, err := g.q.Pop(&chain)
		if ok || err == nil || !strings.Contains(err.Error(), want) {
			g.t.Fatalf("Pop: %v, error %v does not say %q", ok, err, want)
		}
		if len(chain.Out)+len(chain.In) != 0 {
			g.t.Errorf("a broken ring has a chain: %+v", chain)
		}
	}
	if g.q.Base() != base {
		g.t.Error("the base moved")
	}
	mend() // but who would trust it
	if ok, err := g.q.Pop(&chain); ok || err == nil {
		g.t.Error("a broken ring goes on")
	}
}
