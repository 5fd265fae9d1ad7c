package virtio_test

import (
	"errors"
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A front-end can say that a whole ring of bad chains was in flight, each with the longest
// indirect table that there is. To look through all of them would take minutes, in which
// no other front-end is served: the first ones are answered, then the ring is broken.
// Chains that a driver makes available have the limit each for itself.
func TestRetakenChainsAreLookedThroughWithinLimits(t *testing.T) {
	const size, tableAt, table, user = 256, 1 << 20, 1 << 16, 1 << 40
	region := guestmem.Heap(guestmem.RegionDesc{Size: 2 << 20, UserAddr: user})
	mem, err := guestmem.New([]*guestmem.Region{region})
	if err != nil {
		t.Fatal(err)
	}
	b, err := mem.Bytes(tableAt, table*16)
	if err != nil {
		t.Fatal(err)
	}
	for name, features := range map[string]uint64{"split": 0, "packed": driver.FeatureRingPacked} {
		t.Run(name, func(t *testing.T) {
			features |= driver.FeatureIndirectDesc
			ring, err := driver.NewRing(mem, 0, size, features)
			if err != nil {
				t.Fatal(err)
			}
			packed := features&driver.FeatureRingPacked != 0
			for i := range table {
				d := desc{0x8000, 1, fNext, uint16(i + 1)}
				if i == table-1 {
					d = desc{0x8000, 1, fWrite, 0}
				}
				if packed { // read from its end: the one byte is at its beginning
					d = desc{0x8000, 1, 0, 0}
					if i == 0 {
						d.next = fWrite // where flags stand
					}
				}
				putDesc(b[16*i:], d)
			}
			l := ring.Config()
			q, err := virtio.NewQueue(virtio.RingConfig{Size: size, Desc: user + l.Desc, Avail: user + l.Avail, Used: user + l.Used,
				Base: ring.Base(), Features: features, Mem: mem, Answers: true})
			if err != nil {
				t.Fatal(err)
			}
			answered := 0
			for head := range uint16(size) {
				var c virtio.Chain
				switch q := q.(type) {
				case *virtio.Split:
					ring.SetDesc(head, tableAt, table*16, fIndirect, 0)
					err = q.Retake(head, &c)
				case *virtio.Packed:
					if head == 0 {
						if err := q.Rebase(uint32(1<<15) << 16); err != nil { // all of it is in flight
							t.Fatal(err)
						}
					}
					err = q.Retake(head, [][2]uint64{{tableAt, table*16 | fIndirect<<32}}, &c)
				}
				if err != nil {
					break
				}
				answered++
			}
			if answered < 16 || answered > 128 || !errors.Is(err, virtio.ErrNoAnswer) {
				t.Errorf("%d chains are answered, then %v", answered, err)
			}
		})
	}
}
