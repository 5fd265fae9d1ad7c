package virtio_test

import (
	"fmt"
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// use makes n chains available and gives them back, unpublished.
func (g *rig) use(n int) {
	g.t.Helper()
	var c virtio.Chain
	for range n {
		if _, err := g.ring.Add([]driver.Buffer{{GuestAddr: ringAddr, Len: 1}}, nil, 0); err != nil {
			g.t.Fatal(err)
		}
		g.ring.Publish()
		g.pop(&c)
		g.q.Push(c.Head, 0)
	}
}

func (g *rig) harvest() {
	for {
		if _, ok := g.ring.Next(); !ok {
			return
		}
	}
}

// "Used Buffer Notification Suppression", with EVENT_IDX: a call exactly when
// the entry at index used_event is among the new ones.
func TestCallsWithEventIdx(t *testing.T) {
	for _, start := range []uint16{0, 1, 65530, 65535} {
		for event := -3; event <= 6; event++ {
			for n := 1; n <= 4; n++ {
				t.Run(fmt.Sprintf("start %d, event %+d, %d entries", start, event, n), func(t *testing.T) {
					g := newRig(t, 8, allRing, start-1)
					g.use(1) // the first publication is a case of its own
					g.q.Publish()
					g.harvest()
					g.ring.SetUsedEvent(start + uint16(event))
					g.use(n)
					want := event >= 0 && event < n
					if got := g.q.Publish(); got != want {
						t.Errorf("call: %v", got)
					}
					if g.q.Publish() {
						t.Error("a call for nothing new")
					}
					if f := g.ring.DeviceFlags(); f != 0 {
						t.Errorf("flags are %d, MUST be 0", f)
					}
					if idx := g.ring.DeviceIdx(); idx != start+uint16(n) {
						t.Errorf("used index %d", idx)
					}
				})
			}
		}
	}
}

// Without EVENT_IDX the flag of the available ring decides, and used_event is
// ignored.
func TestCallsWithoutEventIdx(t *testing.T) {
	g := newRig(t, 8, 0, 0)
	for i, want := range []bool{true, false, true} {
		if want {
			g.ring.EnableCalls()
		} else {
			g.ring.DisableCalls()
		}
		g.ring.SetUsedEvent(1000)
		g.use(2)
		if got := g.q.Publish(); got != want {
			t.Errorf("step %d: call: %v", i, got)
		}
		g.harvest()
	}
}

// "Available Buffer Notification Suppression", both ways.
func TestKicks(t *testing.T) {
	for _, features := range []uint64{0, allRing} {
		t.Run(virtio.FeatureString(features), func(t *testing.T) {
			g := newRig(t, 8, features, 65534)
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
			for i := range 6 {
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
				want := uint16(0)
				if features == 0 {
					want = 1
				}
				if got := g.ring.DeviceFlags(); got != want {
					t.Fatalf("round %d: device flags %d, not %d", i, got, want)
				}
				if !g.q.EnableKicks() {
					t.Fatalf("round %d: not pending, though one is available", i)
				}
				drain()
				// Enabled for a sleep that ended before anything came.
				g.q.EnableKicks()
				g.q.DisableKicks()
				if add() {
					t.Fatalf("round %d: a kick, though kicks are disabled again", i)
				}
				drain()
			}
		})
	}
}

// Enabling and disabling kicks shows nothing that is staged.
func TestKicksDoNotPublish(t *testing.T) {
	for _, features := range []uint64{0, allRing} {
		g := newRig(t, 8, features, 0)
		g.use(1)
		g.q.DisableKicks()
		g.q.EnableKicks()
		g.q.DisableKicks()
		if idx := g.ring.DeviceIdx(); idx != 0 {
			t.Errorf("%s: used index %d before Publish", virtio.FeatureString(features), idx)
		}
		g.q.Publish()
		if idx := g.ring.DeviceIdx(); idx != 1 {
			t.Errorf("%s: used index %d after Publish", virtio.FeatureString(features), idx)
		}
	}
}

// What a previous owner of the ring left in the flags is cleared, or the driver
// would never kick.
func TestStaleNoNotify(t *testing.T) {
	for _, features := range []uint64{0, allRing} {
		g := newRig(t, 8, 0, 0)
		g.q.DisableKicks()
		q, err := virtio.NewSplit(ringConfig(g.mem, g.ring, features))
		if err != nil {
			t.Fatal(err)
		}
		if g.ring.DeviceFlags() != 1 {
			t.Fatal("NewSplit wrote into the ring")
		}
		q.EnableKicks()
		if f := g.ring.DeviceFlags(); f != 0 {
			t.Errorf("%s: flags %d after EnableKicks", virtio.FeatureString(features), f)
		}
	}
}
