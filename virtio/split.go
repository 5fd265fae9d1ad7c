package virtio

import (
	"encoding/binary"
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Layout of the available and the used ring (struct virtq_avail, virtq_used):
// flags and index, then the entries, then the other side's event index.
const (
	ringHeadBytes   = 4
	availEntryBytes = 2
	usedEntryBytes  = 8
	eventBytes      = 2

	maxRingSize = 32768 // both formats

	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY
)

// Split is the device side of a split virtqueue. It implements Queue.
//
// The driver writes the descriptor table and the available ring, the device the used ring.
// So the device stores the first four bytes of the used ring, flags and index, as one 32
// bit word; it accesses every other shared 16 bit field through guestmem.Uint16.
type Split struct {
	size     uint16
	mem      *guestmem.Memory
	eventIdx bool
	indirect bool

	desc       []byte // size descriptors
	avail      []byte // size entries
	used       []byte // size entries
	availFlags guestmem.Uint16
	availIdx   guestmem.Uint16
	usedEvent  guestmem.Uint16 // where the driver wants a call
	usedWord   guestmem.Uint32 // the device's flags and index
	availEvent guestmem.Uint16 // where we want a kick

	next      uint16 // available index that Pop uses next
	seen      uint16 // available index as last loaded
	usedIdx   uint16 // used index with what is staged
	published uint16 // used index as the driver sees it
	usedFlags uint16 // the device's flags as the driver sees them
	event     uint16 // where the device wants a kick, as the driver sees it
	fresh     bool   // nothing was published yet
	inFlight  []bool // by head
	answers   bool   // see RingConfig.Answers
	look      int    // descriptors that salvage may look at
	tables    tableReader
	log       *dirtyLog // nil: nothing is logged
	broken    error
}

// NewSplit starts serving a ring. It reads the used index, continues from it, and writes
// nothing. An error names the wrong address or size of the front-end.
func NewSplit(cfg RingConfig) (*Split, error) {
	n := int(cfg.Size)
	if n == 0 || n > maxRingSize || n&(n-1) != 0 {
		return nil, fmt.Errorf("ring of %d entries: the size must be a power of two from 1 to %d", n, maxRingSize)
	}
	if cfg.Base > 0xffff {
		return nil, fmt.Errorf("base %#x: the available index of a split ring has 16 bits", cfg.Base)
	}
	q := &Split{
		size:     cfg.Size,
		mem:      cfg.Mem,
		eventIdx: cfg.Features&FeatureEventIdx != 0,
		indirect: cfg.Features&FeatureIndirectDesc != 0,
		next:     uint16(cfg.Base),
		seen:     uint16(cfg.Base),
		fresh:    true,
		inFlight: make([]bool, n),
		answers:  cfg.Answers,
		look:     maxLookBack,
		tables:   tableReader{mem: cfg.Mem},
		log:      newDirtyLog(&cfg),
	}
	// The event indices exist only with EVENT_IDX.
	event := 0
	if q.eventIdx {
		event = eventBytes
	}
	availLen := ringHeadBytes + n*availEntryBytes + event
	usedLen := ringHeadBytes + n*usedEntryBytes + event
	var err error
	if q.desc, err = ringPart(cfg.Mem, "descriptor table", cfg.Desc, n*descBytes, 16); err != nil {
		return nil, err
	}
	avail, err := ringPart(cfg.Mem, "available ring", cfg.Avail, availLen, 2)
	if err != nil {
		return nil, err
	}
	used, err := ringPart(cfg.Mem, "used ring", cfg.Used, usedLen, 4)
	if err != nil {
		return nil, err
	}
	q.avail = avail[ringHeadBytes:][:n*availEntryBytes]
	q.used = used[ringHeadBytes:][:n*usedEntryBytes]
	q.availFlags = guestmem.Uint16At(avail, 0)
	q.availIdx = guestmem.Uint16At(avail, 2)
	q.usedWord = guestmem.Uint32At(used, 0)
	if q.eventIdx {
		q.usedEvent = guestmem.Uint16At(avail, availLen-eventBytes)
		q.availEvent = guestmem.Uint16At(used, usedLen-eventBytes)
	}
	q.usedIdx = uint16(q.usedWord.Load() >> 16)
	q.published = q.usedIdx
	return q, nil
}

// ringPart translates one part of a ring and checks its alignment ("Split Virtqueues",
// "Packed Virtqueues"), both at the driver's address and at that of the mapping.
func ringPart(mem *guestmem.Memory, what string, addr uint64, n int, align uint64) ([]byte, error) {
	b, err := mem.UserBytes(addr, uint64(n))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if addr%align != 0 || !guestmem.Aligned(b, uintptr(align)) {
		return nil, fmt.Errorf("%s at user address %#x: must be aligned to %d bytes", what, addr, align)
	}
	return b, nil
}

// Pop is Queue.Pop. A ring is broken if its available index is more than Size ahead, or an
// entry names a head that is not a descriptor or is in flight already. See also
// RingConfig.Answers.
func (q *Split) Pop(c *Chain) (bool, error) {
	if q.broken != nil {
		return false, q.broken
	}
	if q.next == q.seen {
		// The acquire pairs with the driver's release (virtqueue_add_split in
		// drivers/virtio/virtio_ring.c does virtio_wmb before it stores the
		// index): entries and descriptors up to it can be read now. Linux's
		// device has smp_rmb here (vhost_get_vq_desc in drivers/vhost/vhost.c).
		idx := q.availIdx.Load()
		ahead := idx - q.next
		if ahead == 0 {
			return false, nil
		}
		if ahead > q.size {
			return false, q.fail("available index %d is %d ahead of %d, but the ring has %d entries", idx, ahead, q.next, q.size)
		}
		q.seen = idx
	}
	slot := int(q.next & (q.size - 1))
	head := binary.LittleEndian.Uint16(q.avail[slot*availEntryBytes:])
	if head >= q.size {
		return false, q.fail("available entry %d names descriptor %d, but the ring has %d", q.next, head, q.size)
	}
	if q.inFlight[head] {
		return false, q.fail("available entry %d names descriptor %d, which is in flight", q.next, head)
	}
	c.reset(head)
	q.look = maxLook
	if err := q.read(c); err != nil {
		return false, err
	}
	q.next++
	return true, nil
}

// read fills c from the chain at c.Head and puts it in flight.
func (q *Split) read(c *Chain) error {
	q.walk(c)
	if c.Err != nil {
		q.salvage(c)
	}
	if q.answers && c.InBytes == 0 {
		q.broken = unanswerable(c)
		return q.broken
	}
	q.inFlight[c.Head] = true
	if q.log != nil {
		q.log.hold(c)
	}
	return nil
}

func (q *Split) fail(format string, args ...any) error {
	q.broken = fmt.Errorf(format, args...)
	return q.broken
}

// Push is Queue.Push. It writes the entry into the ring at once; the driver does not read
// it before Publish.
func (q *Split) Push(head uint16, written uint32) {
	if head >= q.size || !q.inFlight[head] {
		panic(fmt.Sprintf("virtio: push of descriptor %d, which is not in flight", head))
	}
	slot := int(q.usedIdx & (q.size - 1))
	binary.LittleEndian.PutUint64(q.used[slot*usedEntryBytes:], uint64(head)|uint64(written)<<32)
	if q.log != nil {
		q.log.written(head)
		q.log.ring(ringHeadBytes+slot*usedEntryBytes, usedEntryBytes)
	}
	q.inFlight[head] = false
	q.usedIdx++
}

// Publish is Queue.Publish ("The Virtqueue Used Ring", "Used Buffer Notification
// Suppression").
//
// Two orders matter. The entries must be visible before the index: the store of the index
// is a release (Linux: smp_wmb in vhost_add_used_n). And the index must be visible before
// the device reads the driver's request for calls; a driver that wants calls again writes
// that request first and then reads the index. If both sides could read early, each would
// miss the other's write and the guest would sleep for ever. That needs a full barrier on
// both sides (Linux: smp_mb in vhost_notify, virtio_mb in virtqueue_poll); here it is a
// sequentially consistent store followed by a sequentially consistent load, see package
// guestmem, shared.go.
func (q *Split) Publish() bool {
	old := q.published
	if q.usedIdx == old {
		return false
	}
	q.storeUsed(q.usedFlags)
	q.published = q.usedIdx
	// The previous process may have died between its store of the index and its call, so
	// the first publication calls whatever the driver asked for (Linux:
	// signalled_used_valid).
	first := q.fresh
	q.fresh = false
	if q.eventIdx {
		return needEvent(q.usedEvent.Load(), q.usedIdx, old) || first
	}
	return q.availFlags.Load()&availNoInterrupt == 0
}

// storeUsed makes flags and the staged index visible, in one store.
func (q *Split) storeUsed(flags uint16) {
	q.storeWord(uint32(q.usedIdx)<<16 | uint32(flags))
	q.usedFlags = flags
}

// storeWord stores flags and index of the used ring.
func (q *Split) storeWord(word uint32) {
	q.usedWord.Store(word)
	if q.log != nil {
		q.log.ring(0, ringHeadBytes)
	}
}

// needEvent reports whether an index that moved from old to new has passed event, the index
// at which the other side wants a notification: whether the entry at index event is among
// the new ones. All three wrap around at 65536. It is vring_need_event of
// include/uapi/linux/virtio_ring.h.
func needEvent(event, new, old uint16) bool {
	return new-event-1 < new-old
}

// EnableKicks is Queue.EnableKicks ("Available Buffer Notification Suppression"). The
// driver stores its index and then reads the device's request for kicks; the device stores
// its request and then reads the index, with the same full barrier as in Publish (Linux:
// smp_mb in vhost_enable_notify, virtio_mb in virtqueue_kick_prepare_split).
func (q *Split) EnableKicks() bool {
	if q.eventIdx {
		q.storeEvent(q.next)
	}
	// With EVENT_IDX the flags MUST be 0, and stay so.
	if !q.eventIdx || q.fresh {
		q.storeWord(uint32(q.published) << 16)
		q.usedFlags = 0
	}
	return q.availIdx.Load() != q.next
}

// storeEvent tells the driver at which available index the device wants a kick.
func (q *Split) storeEvent(index uint16) {
	q.availEvent.Store(index)
	q.event = index
	if q.log != nil {
		q.log.ring(ringHeadBytes+len(q.used), eventBytes)
	}
}

// DisableKicks is Queue.DisableKicks. With EVENT_IDX it sets the index at which the device
// wants a kick to a past one; once a chain was popped the index is past already.
func (q *Split) DisableKicks() {
	switch {
	case q.eventIdx && q.event == q.next:
		q.storeEvent(q.next - 1)
	case !q.eventIdx && q.usedFlags == 0:
		q.storeWord(uint32(q.published)<<16 | usedNoNotify)
		q.usedFlags = usedNoNotify
	}
}

// Used is the index in the used ring of the entry that the next Push fills.
func (q *Split) Used() uint16 { return q.usedIdx }

// Rebase makes Pop continue at index base of the available ring. Call it before the first
// Pop.
func (q *Split) Rebase(base uint16) { q.next, q.seen = base, base }

// Retake fills c with the chain at head, which the previous process had popped, and puts it
// in flight. An error means that such a chain cannot exist, or that it cannot be answered
// (RingConfig.Answers); then others still can.
func (q *Split) Retake(head uint16, c *Chain) error {
	if head >= q.size || q.inFlight[head] {
		return q.fail("descriptor %d of %d was in flight when another process died, or twice", head, q.size)
	}
	c.reset(head)
	return q.read(c)
}

// Base is Queue.Base.
func (q *Split) Base() uint32 { return uint32(q.next) }
