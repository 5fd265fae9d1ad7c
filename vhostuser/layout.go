package vhostuser

import "github.com/zvhost/zvhost/virtio/transport"

// Features that decide what a ring looks like (virtio, "Reserved Feature Bits").
const (
	featureEventIdx   uint64 = 1 << 29 // VIRTIO_F_EVENT_IDX
	featureRingPacked uint64 = 1 << 34 // VIRTIO_F_RING_PACKED
)

// packedStart is where a packed ring begins: at descriptor 0, both wrap counters
// 1 (virtio, "Driver and Device Ring Wrap Counters").
const packedStart = 0x8000_8000

// layout is where ring i is in memory, and in which format.
func (s *Session) layout(i int) transport.Ring {
	r := &s.state.rings[i]
	return transport.Ring{Size: r.num, Desc: r.desc, Avail: r.avail, Used: r.used, Features: s.state.features &^ ownFeatures, Mem: s.mem}
}
