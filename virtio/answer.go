package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A malformed chain is answered too, if the byte for its status can be found: the last
// device-writable one. This file finds it. The status must be written: a driver need not
// initialise it, and Linux does not. virtblk_result in drivers/block/virtio_blk.c reads the
// status of a used chain whatever its length is, and the field is part of a request that is
// reused, so an unwritten status is that of the last request there: 0, success.
//
// If the end of a chain cannot be found (it loops, it leaves its table, its indirect table
// is not in memory) the position of that byte is unknown. Then nothing is written.

// ErrNoAnswer is a chain whose last device-writable byte cannot be found or reached.
var ErrNoAnswer = errors.New("no status can be written for the chain")

// unanswerable is why the ring is broken by the chain c that Pop or Retake has read.
func unanswerable(c *Chain) error {
	if c.Err == nil {
		return fmt.Errorf("%w at descriptor %d, which stays in the ring: none of its bytes is device-writable", ErrNoAnswer, c.Head)
	}
	return fmt.Errorf("%w at descriptor %d, which stays in the ring: %w", ErrNoAnswer, c.Head, c.Err)
}

// maxLook is how many descriptors are read to find the last device-writable byte of a
// malformed chain: as many as the 16 bits of a descriptor's next field can reach in an
// indirect table, and as the longest ring has before that.
//
// Chains that the previous process left in flight are read again all at once, and nothing
// interrupts that, so they share a limit, maxLookBack. Without it a front-end that forges
// such chains, and makes them long, would delay the next front-end.
const (
	maxLook     = 1<<16 + maxRingSize
	maxLookBack = 64 * maxLook
)

// A lookout walks the descriptors of a malformed chain in order.
type lookout struct {
	mem   *guestmem.Memory
	left  int    // descriptors that may still be looked at
	last  uint64 // guest address of the last device-writable byte so far
	found bool   // there is one, and nothing behind it was unreadable
}

// spend counts one more descriptor; it returns false if they are too many.
func (l *lookout) spend() bool {
	if l.left == 0 {
		l.found = false
		return false
	}
	l.left--
	return true
}

// buffer accounts for one buffer.
func (l *lookout) buffer(addr uint64, length uint32, flags uint16) {
	if flags&descWrite == 0 || length == 0 {
		return
	}
	l.last = addr + uint64(length) - 1
	l.found = l.last >= addr
}

// A lookoutTable is an indirect table that a lookout reads.
type lookoutTable struct {
	addr uint64 // guest address
	mem  []byte // all of it, where that lies in one region
}

func (l *lookout) table(addr uint64, descriptors uint32) lookoutTable {
	mem, _ := l.mem.Bytes(addr, uint64(descriptors)*descBytes)
	return lookoutTable{addr, mem}
}

// load reads a descriptor of a table.
func (l *lookout) load(t lookoutTable, index uint32) (d descriptor, ok bool) {
	at := uint64(index) * descBytes
	if t.mem != nil {
		return parseDesc(t.mem[at:]), true
	}
	var b [descBytes]byte
	if l.mem.ReadAt(b[:], t.addr+at) != nil {
		l.found = false
		return descriptor{}, false
	}
	return parseDesc(b[:]), true
}

// splitTable walks an indirect table of a split ring, from its first descriptor along the
// next fields.
func (l *lookout) splitTable(addr uint64, length uint32) {
	n, index := min(length/descBytes, 1<<16), uint32(0)
	t := l.table(addr, n)
	for range n {
		if !l.spend() {
			return
		}
		d, ok := l.load(t, index)
		if !ok {
			return
		}
		if d.flags&descIndirect != 0 {
			l.found = false // tables in tables are not followed
		} else {
			l.buffer(d.addr, d.len, d.flags)
		}
		if d.flags&descNext == 0 {
			return
		}
		if index = uint32(d.next); index >= n {
			break
		}
	}
	l.found = false // it leaves the table or loops, or there is none
}

// packedTable walks an indirect table of a packed ring, whose descriptors are consecutive,
// from its end.
func (l *lookout) packedTable(addr uint64, length uint32) {
	n := length / descBytes
	if n == 0 {
		l.found = false
	}
	t := l.table(addr, n)
	for i := n; i > 0; i-- {
		if !l.spend() {
			return
		}
		d, ok := l.load(t, i-1)
		if !ok {
			return
		}
		flags := d.next // flags are in the place of next
		if flags&descWrite != 0 && d.len > 0 {
			l.buffer(d.addr, d.len, flags)
			return
		}
	}
}

// give makes the byte that was found the only one of c, and returns how many descriptors
// may still be read.
func (l *lookout) give(c *Chain) (left int) {
	if !l.found {
		return l.left
	}
	if in, err := l.mem.AppendIovecs(c.In, l.last, 1); err == nil {
		c.In, c.InBytes = in, 1
	}
	return l.left
}

// salvage finds the last device-writable byte of the bad chain at c.Head. Its descriptors
// are read again and may have changed; whatever they name is guest memory.
func (q *Split) salvage(c *Chain) {
	l := lookout{mem: q.mem, left: q.look}
	defer func() { q.look = l.give(c) }()
	for index, n := c.Head, 0; ; n++ {
		if n == int(q.size) || !l.spend() {
			l.found = false // it loops
			return
		}
		d := parseDesc(q.desc[int(index)*descBytes:])
		if d.flags&descIndirect != 0 {
			l.splitTable(d.addr, d.len)
		} else {
			l.buffer(d.addr, d.len, d.flags)
		}
		if d.flags&descNext == 0 {
			return
		}
		if d.next >= q.size {
			l.found = false
			return
		}
		index = d.next
	}
}

// salvage does the same for a chain of n descriptors, each returned by load, in the form of
// the in-flight record: address; length, and from bit 32 on flags.
func (q *Packed) salvage(c *Chain, n int, load func(i int) [2]uint64) {
	l := lookout{mem: q.mem, left: q.look}
	defer func() { q.look = l.give(c) }()
	for i := range n {
		if !l.spend() {
			return
		}
		d := load(i)
		addr, length, flags := d[0], uint32(d[1]), uint16(d[1]>>32)
		if flags&descIndirect != 0 {
			l.packedTable(addr, length)
		} else {
			l.buffer(addr, length, flags)
		}
	}
}

// standing is the i-th descriptor of the chain at next, in the form of the in-flight
// record.
func (q *Packed) standing(i int) [2]uint64 {
	d := parseDesc(q.desc[int(q.next.plus(uint16(i), q.size).index)*descBytes:])
	return [2]uint64{d.addr, uint64(d.len) | uint64(d.next)<<32} // flags are in the place of next
}

// A descriptor is struct virtq_desc.
type descriptor struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

// parseDesc reads a descriptor, each half of it once. In a packed ring flags are in the
// place of next.
func parseDesc(b []byte) descriptor {
	addr, rest := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	return descriptor{addr, uint32(rest), uint16(rest >> 32), uint16(rest >> 48)}
}
