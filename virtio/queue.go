package virtio

import "github.com/zvhost/zvhost/virtio/guestmem"

// A Queue is the device side of one virtqueue. It belongs to one goroutine. Its
// methods do the work of a batch's step on one format of ring, Split or Packed.
//
// A worker begins with EnableKicks, because what stands in the ring about kicks
// is from whoever served it before, and Pops until there is no more.
type Queue interface {
	// Pop takes the next available chain out of the ring into c, and is false
	// when there is none. The shared index is loaded only when all that it
	// showed last time is used up.
	//
	// A chain that makes no sense is still popped, with c.Err set: it is to be
	// pushed back used, and costs nothing but that request. An error is about the
	// ring itself: it is broken, no more can be taken from it, and every further Pop
	// says so again. That is also so of a chain that cannot be answered, where
	// RingConfig.Answers asks for that.
	Pop(c *Chain) (bool, error)
	// Push stages the chain with that head as used; written is what the device
	// wrote into its device-writable part, in bytes from its beginning. A head
	// that is not in flight is a bug of the caller and panics.
	Push(head uint16, written uint32)
	// Publish shows the driver everything that was pushed since the last time,
	// and says whether the driver wants to be told (a call).
	Publish() (notify bool)
	// EnableKicks asks the driver to kick when it makes more available, and says
	// whether it already has: then no kick may come for it, so Pop again before
	// going to sleep.
	EnableKicks() (pending bool)
	// DisableKicks tells the driver that kicks are a waste just now. They may
	// come all the same.
	DisableKicks()
	// Base says where the queue goes on, as RingConfig.Base does: what
	// GET_VRING_BASE answers once nothing is in flight any more.
	Base() uint32
}

// NewQueue starts serving a ring, in the format that cfg.Features say.
func NewQueue(cfg RingConfig) (Queue, error) {
	if cfg.Features&FeatureRingPacked != 0 {
		return NewPacked(cfg)
	}
	return NewSplit(cfg)
}

// RingConfig says where a ring is and how it is to be served.
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
	// Base is where to go on, as in SET_VRING_BASE. Of a split ring: the first
	// available index to take, 16 bits. Of a packed ring: in bits 0 to 14 the
	// descriptor to take next, with the driver's wrap counter in bit 15; in bits 16
	// to 30 the one to use next, with the device's wrap counter in bit 31.
	Base uint32
	// Features are the negotiated ones; RING_PACKED, EVENT_IDX and INDIRECT_DESC
	// matter here.
	Features uint64
	Mem      *guestmem.Memory
	// Answers says that each chain is answered in its last device-writable byte, as
	// those of a block device are. One without such a byte in guest memory breaks the
	// ring and stays in it: Base does not count it, and it is never pushed.
	Answers bool
	// Log, where it is not nil, has every byte marked that is written into guest
	// memory: the device-writable parts of chains when they are pushed, and the
	// ring's own as they are written. Marks of a split ring's used ring, and of a
	// packed ring's device event suppression structure, count from the guest address
	// UsedLog, and are left out where that is
	// guestmem.Unlogged.
	Log     *guestmem.Log
	UsedLog uint64
}
