package device

import (
	"testing"

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
			breakRing(t, true, func(r *driver.Ring) { spoil(r, uint16(r.Base())&0x7fff) })
		})
	}
}

func TestPackedRingMemoryGoesAway(t *testing.T) {
	r := zonedRig(t, smallZones, 1)
	removeRingMemory(r, r.newGate(), true, true)
}
