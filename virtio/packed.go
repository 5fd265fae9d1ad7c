package virtio

import (
	"encoding/binary"
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// struct pvirtq_desc: addr and len as in a split ring, then id and flags, which
// are read and written as one 32 bit word.
const (
	packedLen  = 8
	packedWord = 12 // id, and flags in its upper half

	descAvail = 1 << 7  // VIRTQ_DESC_F_AVAIL
	descUsed  = 1 << 15 // VIRTQ_DESC_F_USED
)

// struct pvirtq_event_suppress, as one 32 bit word: offset (15 bits) and wrap
// counter, then flags (2 bits).
const (
	eventWordBytes = 4
	eventFlags     = 16 // shift
	eventEnable    = 0  // RING_EVENT_FLAGS_ENABLE
	eventDisable   = 1  // RING_EVENT_FLAGS_DISABLE
	eventDesc      = 2  // RING_EVENT_FLAGS_DESC
)

// Packed is the device side of a packed virtqueue. It implements Queue; a
// chain's head is its buffer id.
//
// There is one ring, which both sides write. The driver writes a chain of descriptors where
// its last chain ended. The device writes one used descriptor for each chain where its last
// one ended, in the order of completion. A used descriptor takes the first place of as many
// as its chain had, so the device never writes beyond what it has read.
type Packed struct {
	size     uint16
	mem      *guestmem.Memory
	eventIdx bool
	indirect bool
	answers  bool // see RingConfig.Answers
	look     int  // descriptors that salvage may look at
	tables   tableReader

	desc        []byte          // size descriptors
	driverEvent guestmem.Uint32 // where the driver wants a call
	deviceEvent guestmem.Uint32 // where we want a kick

	next     place       // the descriptor that Pop reads next
	used     place       // where the next used descriptor goes, with what is staged
	shown    place       // the same, as the driver sees it
	staged   uint16      // descriptors from shown to used
	taken    uint16      // descriptors from shown to next
	chains   []uint16    // by buffer id: the chain's descriptors, 0 when not in flight
	first    uint32      // id and flags at shown, not stored before Publish
	wish     uint32      // the device's event word as the driver sees it
	wishSeen bool        // wish is known to be in the ring
	fresh    bool        // nothing was published yet
	log      *dirtyLog   // nil: nothing is logged
	raw      [][2]uint64 // of the chain popped last; nil: not needed
	descLog  uint64      // guest address of desc
	broken   error
}

// A place is a position in the ring with its wrap counter ("Driver and Device Ring Wrap
// Counters").
type place struct {
	index uint16
	wrap  bool
}

// placeOf decodes a place from its form in messages and event words.
func placeOf(v uint16) place { return place{v &^ (1 << 15), v>>15 != 0} }

func (p place) word() uint16 {
	if p.wrap {
		return p.index | 1<<15
	}
	return p.index
}

// plus is the place n descriptors on, n <= size.
func (p place) plus(n, size uint16) place {
	i := uint32(p.index) + uint32(n)
	if i >= uint32(size) {
		return place{uint16(i - uint32(size)), !p.wrap}
	}
	return place{uint16(i), p.wrap}
}

// ahead is the number of descriptors from the one to be used next to the one to be popped
// next, in a ring of size.
func ahead(next, used place, size uint16) (uint16, error) {
	n := int(next.index) - int(used.index)
	if next.wrap != used.wrap {
		n += int(size)
	}
	if next.index >= size || used.index >= size || n < 0 || n > int(size) {
		return 0, fmt.Errorf("descriptors %d (next available) and %d (next used) make no sense in a packed ring of %d", next.index, used.index, size)
	}
	return uint16(n), nil
}

// available reports whether flags are those of a descriptor that the driver has made
// available here.
func (p place) available(flags uint16) bool {
	return (flags&descAvail != 0) == p.wrap && (flags&descUsed != 0) != p.wrap
}

// NewPacked starts serving a ring. It reads and writes nothing in it. An error names the
// mistake of the front-end.
func NewPacked(cfg RingConfig) (*Packed, error) {
	n := int(cfg.Size)
	if n == 0 || n > maxRingSize {
		return nil, fmt.Errorf("packed ring of %d descriptors: the size must be 1 to %d", n, maxRingSize)
	}
	q := &Packed{
		size:     cfg.Size,
		mem:      cfg.Mem,
		eventIdx: cfg.Features&FeatureEventIdx != 0,
		indirect: cfg.Features&FeatureIndirectDesc != 0,
		answers:  cfg.Answers,
		look:     maxLookBack,
		tables:   tableReader{mem: cfg.Mem},
		next:     placeOf(uint16(cfg.Base)),
		used:     placeOf(uint16(cfg.Base >> 16)),
		chains:   make([]uint16, n),
		fresh:    true,
	}
	q.shown = q.used
	q.log = newDirtyLog(&cfg)
	var err error
	if q.taken, err = ahead(q.next, q.used, q.size); err != nil {
		return nil, fmt.Errorf("base %#x: %w", cfg.Base, err)
	}
	if q.desc, err = ringPart(cfg.Mem, "descriptor ring", cfg.Desc, n*descBytes, 16); err != nil {
		return nil, err
	}
	driver, err := ringPart(cfg.Mem, "driver event suppression", cfg.Avail, eventWordBytes, 4)
	if err != nil {
		return nil, err
	}
	device, err := ringPart(cfg.Mem, "device event suppression", cfg.Used, eventWordBytes, 4)
	if err != nil {
		return nil, err
	}
	q.descLog = guestAddrOf(cfg.Mem, q.desc)
	q.driverEvent, q.deviceEvent = guestmem.Uint32At(driver, 0), guestmem.Uint32At(device, 0)
	return q, nil
}

// load reads the flags of the descriptor at next. The acquire pairs with the driver's
// release of the flags of a chain's first descriptor (virtqueue_add_packed in
// drivers/virtio/virtio_ring.c does virtio_wmb before it stores them): the whole chain can
// be read once these flags are visible.
func (q *Packed) load() uint16 { return q.flagsAt(q.next.index) }

func (q *Packed) flagsAt(index uint16) uint16 {
	return uint16(guestmem.Uint32At(q.desc, int(index)*descBytes+packedWord).Load() >> 16)
}

// Pop is Queue.Pop. A ring is broken if more descriptors are available than the driver
// owns, or a chain has a buffer id that is invalid or in flight already. See also
// RingConfig.Answers.
func (q *Packed) Pop(c *Chain) (bool, error) {
	if q.broken != nil {
		return false, q.broken
	}
	flags := q.load()
	if !q.next.available(flags) {
		return false, nil
	}
	c.reset(0)
	n, err := q.walk(c, flags)
	if err != nil {
		c.reset(0)
		q.broken = err
		return false, err
	}
	if c.Err != nil {
		q.look = maxLook
		q.salvage(c, int(n), q.standing)
	}
	if q.answers && c.InBytes == 0 {
		q.broken = unanswerable(c)
		return false, q.broken
	}
	q.chains[c.Head] = n
	q.taken += n
	q.next = q.next.plus(n, q.size)
	if q.log != nil {
		q.log.hold(c)
	}
	return true, nil
}

// walk fills c from the chain at next ("Next Flag: Descriptor Chaining") and returns how
// many descriptors it has. Each is read once, by two 8 byte loads; of the first, flags were
// read before. An error of the chain is stored in c after the whole chain has been read,
// since only its last descriptor has the buffer id. A returned error is about the ring.
func (q *Packed) walk(c *Chain, flags uint16) (n uint16, err error) {
	var (
		bad   error
		badAt uint16
	)
	writes, at := false, q.next
	if q.raw != nil {
		q.raw = q.raw[:0]
	}
	for {
		if n == q.size-q.taken {
			return 0, fmt.Errorf("available descriptor %d: its chain runs into descriptors that are in flight", at.index)
		}
		n++
		d := q.desc[int(at.index)*descBytes:][:descBytes]
		addr, rest := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[packedLen:])
		if n > 1 {
			flags = uint16(rest >> 48)
		}
		if q.raw != nil {
			q.raw = append(q.raw, [2]uint64{addr, uint64(uint32(rest)) | uint64(flags)<<32})
		}
		if bad == nil {
			bad, badAt = q.element(c, n, addr, uint32(rest), flags, &writes), at.index
		}
		if flags&descNext != 0 {
			at = at.plus(1, q.size)
			continue
		}
		id := uint16(rest >> 32)
		if id >= q.size {
			return 0, fmt.Errorf("available descriptor %d has buffer id %d, but the ring has %d", at.index, id, q.size)
		}
		if q.chains[id] != 0 {
			return 0, fmt.Errorf("available descriptor %d has buffer id %d, which is in flight", at.index, id)
		}
		c.Head = id
		if bad != nil {
			c.fail(badAt, bad)
		}
		return n, nil
	}
}

// element adds the n-th descriptor of a chain to it.
func (q *Packed) element(c *Chain, n uint16, addr uint64, length uint32, flags uint16, writes *bool) error {
	if flags&descIndirect != 0 {
		switch {
		case !q.indirect:
			return errIndirect
		case n > 1 || flags&descNext != 0: // "each list only contains descriptors of a given type"
			return errIndirectMixed
		}
		return q.walkTable(c, addr, length)
	}
	if n > MaxChain {
		return errChainLong
	}
	return q.buffer(c, addr, length, flags, writes)
}

// walkTable adds an indirect table: all of its descriptors, one after the other. The write
// flag is the only one with a meaning there ("Indirect Flag").
func (q *Packed) walkTable(c *Chain, addr uint64, length uint32) error {
	table, err := q.tables.table(addr, length)
	if err != nil {
		return err
	}
	for writes := false; len(table) > 0; table = table[descBytes:] {
		addr, rest := binary.LittleEndian.Uint64(table), binary.LittleEndian.Uint64(table[packedLen:])
		if err := q.buffer(c, addr, uint32(rest), uint16(rest>>48), &writes); err != nil {
			return err
		}
	}
	return nil
}

// buffer adds one buffer.
func (q *Packed) buffer(c *Chain, addr uint64, length uint32, flags uint16, writes *bool) error {
	write := flags&descWrite != 0
	if !write && *writes {
		return errChainOrder
	}
	*writes = write
	return c.add(q.mem, addr, length, write)
}

// Push is Queue.Push. It writes the used descriptor at once, except id and flags of the
// first one since Publish: the driver does not read beyond that.
func (q *Packed) Push(head uint16, written uint32) {
	if head >= q.size || q.chains[head] == 0 {
		panic(fmt.Sprintf("virtio: push of buffer %d, which is not in flight", head))
	}
	word := uint32(head)
	if q.used.wrap {
		word |= (descAvail | descUsed) << 16
	}
	if written > 0 {
		word |= descWrite << 16
	}
	d := q.desc[int(q.used.index)*descBytes:][:descBytes]
	binary.LittleEndian.PutUint32(d[packedLen:], written)
	if q.staged == 0 {
		q.first = word
	} else {
		binary.LittleEndian.PutUint32(d[packedWord:], word)
	}
	if q.log != nil {
		q.log.written(head)
		q.logDesc(q.used)
	}
	n := q.chains[head]
	q.chains[head] = 0
	q.staged += n
	q.used = q.used.plus(n, q.size)
}

// Publish is Queue.Publish. The flags of the first used descriptor are stored last, as a
// release, so that all others can be read once they are visible ("Polling of available and
// used descriptors"). Before the driver's request for calls is read there is the same full
// barrier as in Split.Publish.
func (q *Packed) Publish() bool {
	if q.staged == 0 {
		return false
	}
	guestmem.Uint32At(q.desc, int(q.shown.index)*descBytes+packedWord).Store(q.first)
	if q.log != nil {
		q.logDesc(q.shown)
	}
	n := q.staged
	q.shown, q.staged = q.used, 0
	q.taken -= n
	// See Split.Publish.
	first := q.fresh
	q.fresh = false
	event := q.driverEvent.Load()
	switch event >> eventFlags & 3 {
	case eventDisable:
		return false
	case eventDesc:
		if q.eventIdx {
			return q.passed(placeOf(uint16(event)), n) || first
		}
	}
	return true
}

// logDesc marks a used descriptor. UsedLog is the address of the event structure, so
// descriptors are marked at their own guest address.
func (q *Packed) logDesc(at place) {
	q.log.log.Mark(q.descLog+uint64(at.index)*descBytes, descBytes)
}

// passed reports whether the place of event is among the last n up to shown. A place of the
// previous lap counts from there (vring_need_event and its caller
// virtqueue_kick_prepare_packed in drivers/virtio/virtio_ring.c).
func (q *Packed) passed(event place, n uint16) bool {
	at := event.index
	if event.wrap != q.shown.wrap {
		at -= q.size
	}
	return needEvent(at, q.shown.index, q.shown.index-n)
}

// EnableKicks is Queue.EnableKicks. With EVENT_IDX it asks for a kick at the next free
// place; without, for any kick. Barriers are as in Split.EnableKicks.
func (q *Packed) EnableKicks() bool {
	wish := uint32(eventEnable << eventFlags)
	if q.eventIdx {
		wish = eventDesc<<eventFlags | uint32(q.next.word())
	}
	q.ask(wish)
	return q.next.available(q.load())
}

// DisableKicks is Queue.DisableKicks.
func (q *Packed) DisableKicks() { q.ask(eventDisable << eventFlags) }

// ask stores the device's event word, unless it is there already. The word of the previous
// process is not known.
func (q *Packed) ask(wish uint32) {
	if !q.wishSeen || q.wish != wish {
		q.deviceEvent.Store(wish)
		if q.log != nil {
			q.log.ring(0, eventWordBytes)
		}
		q.wish, q.wishSeen = wish, true
	}
}

// Base is Queue.Base.
func (q *Packed) Base() uint32 { return uint32(q.next.word()) | uint32(q.shown.word())<<16 }
