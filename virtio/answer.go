package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A chain that cannot be carried out is answered all the same, wherever the byte
// that its status goes to can be found: the last device-writable one. This file
// finds it. It matters that it is written. A driver need not fill it in beforehand,
// and Linux does not: virtblk_result in drivers/block/virtio_blk.c looks at the
// status of a used chain whatever its length says, and the field is a part of a
// request that is used again and again, so a status that nobody has written is the
// last request's there: 0, success.
//
// Of a chain whose end cannot be seen (it loops, it leaves its table, its indirect
// table is not in memory) nobody knows where that byte is. Nothing is written then.

// ErrNoAnswer is a chain whose last device-writable byte cannot be found or reached.
var ErrNoAnswer = errors.New("no status can be written for the chain")

// unanswerable is why a ring is broken by a chain that Pop or Retake has found at
// head.
func unanswerable(c *Chain) error {
	if c.Err == nil {
		return fmt.Errorf("%w at descriptor %d, which stays in the ring: none of its bytes is device-writable", ErrNoAnswer, c.Head)
	}
	return fmt.Errorf("%w at descriptor %d, which stays in the ring: %w", ErrNoAnswer, c.Head, c.Err)
}

// maxLook is how many descriptors are looked at to find the last device-writable
// byte of a bad chain: as many as the 16 bits of a descriptor's next field can
// reach in an indirect table, and as the longest ring has before that.
//
// Chains that another process has left in flight are taken again all at once, and
// nothing ends that, so that they share a limit, maxLookBack. A front-end that says
// that there are such chains, and makes them long, would have the next one wait.
const (
	maxLook     = 1<<16 + maxRingSize
	maxLookBack = 64 * maxLook
)

// A lookout passes over the descriptors of a bad chain, in their order.
type lookout struct {
	mem   *guestmem.Memory
	left  int    // descriptors that may still be looked at
	last  uint64 // guest address of the last device-writable byte so far
	found bool   // there is one, and nothing behind it that could not be looked at
}

// spend takes note of one more descriptor; it is false when they were too many.
func (l *lookout) spend() bool {
	if l.left == 0 {
		l.found = false
		return false
	}
	l.left--
	return true
}

// buffer passes over one buffer.
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

// splitTable passes over an indirect table of a split ring, from its first
// descriptor along their next fields.
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

// packedTable passes over an indirect table of a packed ring, all of which is one
// piece after the other, from its end on.
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
		flags := d.next // they stand in its place
		if flags&descWrite != 0 && d.len > 0 {
			l.buffer(d.addr, d.len, flags)
			return
		}
	}
}

// give leaves the byte that was found as all that there is of c, and returns how many
// descriptors may still be looked at.
func (l *lookout) give(c *Chain) (left int) {
	if !l.found {
		return l.left
	}
	if in, err := l.mem.AppendIovecs(c.In, l.last, 1); err == nil {
		c.In, c.InBytes = in, 1
	}
	return l.left
}

// salvage finds the last device-writable byte of the bad chain at c.Head. Its
// descriptors are read again, and may say something else by now: whatever they
// name is memory of the guest's.
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

// salvage does the same for a chain of n descriptors, of which load returns each,
// as RingRecord has them: address; length, and from bit 32 on flags.
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

// standing is the i-th descriptor of the chain at next, as RingRecord has them.
func (q *Packed) standing(i int) [2]uint64 {
	d := parseDesc(q.desc[int(q.next.plus(uint16(i), q.size).index)*descBytes:])
	return [2]uint64{d.addr, uint64(d.len) | uint64(d.next)<<32} // flags stand in the place of next
}

// A descriptor is struct virtq_desc.
type descriptor struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

// parseDesc reads a descriptor, each half of it once. A packed ring's has flags in
// the place of next.
func parseDesc(b []byte) descriptor {
	addr, rest := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	return descriptor{addr, uint32(rest), uint16(rest >> 32), uint16(rest >> 48)}
}
