package virtio

import "github.com/zvhost/zvhost/virtio/guestmem"

// A Queue is the device side of one virtqueue. It belongs to one goroutine. Its methods are
// the steps of a batch on one format of ring, Split or Packed.
//
// A worker begins with EnableKicks, since the previous process left its own request for
// kicks in the ring, and calls Pop until there is no more.
type Queue interface {
	// Pop takes the next available chain out of the ring into c, and returns false if there
	// is none. It loads the shared index only when all chains up to the last loaded value
	// are popped.
	//
	// A malformed chain is popped too, with c.Err set: the caller pushes it back as used,
	// and only that request fails. An error is about the ring itself: it is broken, no more
	// can be popped from it, and every further Pop returns the error again. With
	// RingConfig.Answers, a chain that cannot be answered is such an error too.
	Pop(c *Chain) (bool, error)
	// Push stages the chain with that head as used. written is how many bytes the device
	// wrote, from the beginning of its device-writable part. A head that is not in flight
	// is a bug of the caller and panics.
	Push(head uint16, written uint32)
	// Publish shows the driver everything that was pushed since the last time, and reports
	// whether the driver wants a call.
	Publish() (notify bool)
	// EnableKicks asks the driver to kick when it makes more available, and reports whether
	// it already has. In that case no kick may come, so call Pop again before sleeping.
	EnableKicks() (pending bool)
	// DisableKicks tells the driver not to send kicks. It may send some all the same.
	DisableKicks()
	// Base is the position at which the queue continues, as in RingConfig.Base: the answer
	// to GET_VRING_BASE once nothing is in flight.
	Base() uint32
}

// NewQueue starts serving a ring in the format given by cfg.Features.
func NewQueue(cfg RingConfig) (Queue, error) {
	if cfg.Features&FeatureRingPacked != 0 {
		return NewPacked(cfg)
	}
	return NewSplit(cfg)
}

// RingConfig describes a ring's memory and format.
type RingConfig struct {
	// Size is the number of descriptors, 1 to 32768; a power of two in a split
	// ring.
	Size uint16
	// Desc, Avail and Used are addresses of the front-end's, as in
	// SET_VRING_ADDR. Of a split ring: the descriptor table (aligned to 16 bytes),
	// the available ring (to 2) and the used ring (to 4). Of a packed ring: the
	// descriptor ring (to 16), the driver's and the device's event suppression
	// structure (to 4 both).
	Desc, Avail, Used uint64
	// Base is the position to continue at, as in SET_VRING_BASE. Of a split ring: the first
	// available index to pop, 16 bits. Of a packed ring: in bits 0 to 14 the descriptor to
	// pop next, with the driver's wrap counter in bit 15; in bits 16 to 30 the one to use
	// next, with the device's wrap counter in bit 31.
	Base uint32
	// Features are the negotiated features; RING_PACKED, EVENT_IDX and INDIRECT_DESC are
	// used here.
	Features uint64
	Mem      *guestmem.Memory
	// Answers means that each chain is answered in its last device-writable byte, as for a
	// block device. A chain without such a byte in guest memory breaks the ring and stays
	// in it: Base does not count it, and it is never pushed.
	Answers bool
	// Log, if not nil, gets a mark for every byte that is written into guest memory: the
	// device-writable parts of chains when they are pushed, and those of the ring as they
	// are written. Marks of a split ring's used ring, and of a packed ring's device event
	// suppression structure, count from the guest address UsedLog, and are omitted if that
	// is guestmem.Unlogged.
	Log     *guestmem.Log
	UsedLog uint64
}
