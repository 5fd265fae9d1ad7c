package device

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// What hostile_test.go shows of split rings, of packed ones.

// Flags of descriptors ("The Virtqueue Descriptor Format"); avail is that of an
// available one in the first lap.
const (
	packedNext     = 1
	packedWrite    = 2
	packedIndirect = 4
	packedAvail    = 1 << 7
)

func TestBrokenPackedRing(t *testing.T) {
	for name, spoil := range map[string]func(*driver.Ring, uint16){
		"no such buffer": func(r *driver.Ring, at uint16) { r.SetPackedDesc(at, frontend.GuestBase, 16, 128, packedAvail) },
		"buffer 65535":   func(r *driver.Ring, at uint16) { r.SetPackedDesc(at, frontend.GuestBase, 16, 0xffff, packedAvail) },
		"no end": func(r *driver.Ring, at uint16) {
			for n := range uint16(128) { // the first one last: the device may be looking
				i := (at + 1 + n) % 128
				r.SetPackedDesc(i, frontend.GuestBase, 16, i, packedAvail|packedNext)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := zonedRig(t, smallZones, 2)
			g := r.connect(frontend.Options{Queues: 2, Packed: true})
			q, errs := g.Queue(0), g.errFD(0)
			g.want("append", driver.StatusOK, firstOf(q.Append(pattern(4096, 1), 128)))
			spoil(q.Ring(), uint16(q.Ring().Base())&0x7fff)
			g.kick(0)
			readable(t, "the err eventfd", errs)
			r.logged("queue 0 is broken")

			g.want("append on the other queue", driver.StatusOK, firstOf(g.Queue(1).Append(pattern(4096, 2), 128)))
			if base, err := q.Stop(); err != nil || base != q.Ring().Base() {
				t.Fatalf("base %#x, %v", base, err)
			}
			// A driver that resets the queue begins with an empty ring.
			l := q.Ring().Config()
			fresh, err := driver.NewRing(g.Memory.Memory, l.Desc, l.Size, g.Features)
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Start(fresh.Base()); err != nil {
				t.Fatal(err)
			}
			g.vanish()
			r.nextIsServed()
		})
	}
}

func TestPackedRingMemoryGoesAway(t *testing.T) {
	r := zonedRig(t, smallZones, 1)
	gate := r.newGate()
	g := r.connect(frontend.Options{Packed: true})
	errs := g.errFD(0)
	gate.shut.Store(true)
	send(g, driver.TypeZoneAppend, 128, 4096)
	gate.wait(1)
	if err := unix.Ftruncate(g.Memory.Region.FD(), 0); err != nil {
		t.Fatal(err)
	}
	gate.open()
	g.kick(0)
	readable(t, "the err eventfd", errs)
	r.logged("its memory is not there (fault at 0x")
	g.vanish()
	r.nextIsServed()
}
