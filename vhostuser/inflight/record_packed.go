package inflight

import (
	"fmt"
	"slices"
)

// The record of a packed ring. What was in flight cannot be read from the ring
// again, as used descriptors overwrite it, so the descriptors of each chain are
// copied. Words are those of a split ring's record but for these:
//
//	1        version 2, chains in the batch that is being made, the last of them,
//	         and the place (with its wrap counter) where the batch begins in the ring
//	2+2i     buffer i: bits 0..7 in flight, 16..31 its descriptors, 32..47 the first
//	         of their copies, 48..63 the next of its batch
//	own+2    descriptors of the ring, and by how many of them the driver was ahead
//	         when the ring started: 16 bits each
//	copies+2j  a copy: address; length (32 bits), flags, and the next copy of its
//	         chain
//
// copies is behind the marks.
//
// The place of the batch, and how long it is, are one word, so whoever comes next
// knows which descriptor of the ring to look at: it is the one that Publish makes
// a used one, last of all. While it is as available as it was, nobody has seen the
// batch.

const recordVersionPacked = 2

// packedRecord is what a worker knows of the record of its packed ring by itself.
type packedRecord struct {
	place place
	descs []uint16 // by buffer id: descriptors of its chain
	first []uint16 // by buffer id: the first of their copies
	next  []uint16 // by copy: the next of its chain
	free  []uint16 // copies that are free
}

// A place is one in a packed ring, with the wrap counter that goes with it.
type place uint16

func (p place) index() uint16 { return uint16(p) &^ (1 << 15) }

// plus is the place n descriptors on in a ring of size.
func (p place) plus(n, size uint16) place {
	at, wrap := uint32(p.index())+uint32(n), uint16(p)&(1<<15)
	if at >= uint32(size) {
		at, wrap = at-uint32(size), wrap^(1<<15)
	}
	return place(uint16(at) | wrap)
}

// copyAt is where copy j is.
func (q *Ring) copyAt(j uint16) int { return q.own + ownWords + 2*int(q.room) + 2*int(j) }

// packedBits are the parts of a buffer's word that only packed rings have.
func (q *Ring) packedBits(id uint16) uint64 {
	if q.packed == nil {
		return 0
	}
	return uint64(q.packed.descs[id])<<16 | uint64(q.packed.first[id])<<32
}

// Hold copies the descriptors of the chain with buffer id, which Take is about to
// note: address, then length and, from bit 32 on, flags.
func (q *Ring) Hold(id uint16, descs [][2]uint64) {
	p := q.packed
	p.descs[id] = uint16(len(descs))
	link := uint16(0)
	for _, d := range slices.Backward(descs) {
		j := p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
		q.store(q.copyAt(j), d[0])
		q.store(q.copyAt(j)+1, d[1]&(1<<48-1)|uint64(link)<<48)
		p.next[j] = link
		link = j
	}
	p.first[id] = link
}

// release makes the copies of a chain free.
func (p *packedRecord) release(id uint16) {
	j := p.first[id]
	for range p.descs[id] {
		p.free = append(p.free, j)
		j = p.next[j]
	}
}

// BeginPacked is Begin for a packed ring. passed says whether the descriptor at a
// place is not any more the available one that it was when it was taken. base is
// where to go on from, as Ring.Base has it, and ids are the buffers in flight;
// Held has their descriptors.
func (q *Ring) BeginPacked(ring Start, passed func(place uint16) bool) (base uint32, ids []uint16, err error) {
	if ring.Size > q.room {
		return 0, nil, fmt.Errorf("the record of requests in flight was made for rings of %d descriptors at most, this one has %d", q.room, ring.Size)
	}
	n := ring.Size
	q.batch = slices.Grow(q.batch[:0], int(n))
	q.size = n
	q.packed = &packedRecord{descs: make([]uint16, n), first: make([]uint16, n), next: make([]uint16, q.room), free: make([]uint16, 0, q.room)}
	ahead := aheadOf(ring)
	if q.Life() != ring.Life {
		q.beginPacked(ring)
	} else {
		if ahead, err = q.settle(passed); err == nil {
			ids, err = q.adopt()
		}
		if err != nil {
			return 0, nil, err
		}
	}
	q.freeCopies(ids)
	total := uint32(ahead)
	for _, id := range ids {
		total += uint32(q.packed.descs[id])
	}
	if total > uint32(n) {
		return 0, nil, fmt.Errorf("the record of requests in flight has %d descriptors, but the ring %d", total, n)
	}
	return uint32(q.packed.place.plus(uint16(total), n)) | uint32(q.packed.place)<<16, ids, nil
}

// beginPacked empties the record. The life comes last: until then it is of the one
// before.
func (q *Ring) beginPacked(ring Start) {
	q.store(q.own, 0)
	q.last, q.counter = 0, 0
	q.packed.place = place(ring.Base >> 16)
	q.store(0, 0)
	q.storeHead()
	for i := range int(q.size) {
		q.store(wordDesc+2*i, 0)
		q.store(wordDesc+2*i+1, 0)
	}
	q.store(q.own+2, uint64(q.size)|uint64(aheadOf(ring))<<16)
	q.store(q.own, ring.Life)
}

// aheadOf is by how many descriptors the driver is ahead of the device in a ring
// that starts: 0 but where requests of somebody else were lost.
func aheadOf(ring Start) uint16 {
	next, used := place(ring.Base), place(ring.Base>>16)
	if next^used < 1<<15 {
		return next.index() - used.index()
	}
	return ring.Size - used.index() + next.index()
}

// settle takes the batch out of the record that was published by who then died.
func (q *Ring) settle(passed func(place uint16) bool) (ahead uint16, err error) {
	head, size := q.load(wordHead), q.load(q.own+2)
	if head&0xffff != recordVersionPacked || uint16(size) != q.size {
		return 0, fmt.Errorf("the record of requests in flight is of version %d and a ring of %d descriptors, and this packed ring has %d", head&0xffff, uint16(size), q.size)
	}
	count, at := uint16(head>>16), uint16(head>>32)
	p := q.packed
	if p.place = place(head >> 48); p.place.index() >= q.size || count > q.size {
		return 0, fmt.Errorf("the record of requests in flight is at descriptor %d, with %d to give back, but the ring has %d", p.place.index(), count, q.size)
	}
	if count > 0 && passed(uint16(p.place)) {
		total := uint32(0)
		for range count {
			if at >= q.size {
				return 0, fmt.Errorf("the record of requests in flight names buffer %d, but the ring has %d", at, q.size)
			}
			w := q.load(wordDesc + 2*int(at))
			q.store(wordDesc+2*int(at), w&^0xff)
			total += uint32(uint16(w >> 16))
			at = uint16(w >> 48)
		}
		if total > uint32(q.size) {
			return 0, fmt.Errorf("the record of requests in flight gives %d descriptors back, but the ring has %d", total, q.size)
		}
		p.place = p.place.plus(uint16(total), q.size)
	}
	q.last = uint16(head >> 32)
	q.storeHead() // no batch any more: what was not published is in flight again
	return uint16(size >> 16), nil
}

// adopt reads what is in flight, in the order in which it came.
func (q *Ring) adopt() (ids []uint16, err error) {
	p := q.packed
	counters := make([]uint64, q.size)
	used := make([]bool, q.room)
	for i := range q.size {
		w := q.load(wordDesc + 2*int(i))
		if w&0xff == 0 {
			continue
		}
		counters[i] = q.load(wordDesc + 2*int(i) + 1)
		ids = append(ids, i)
		p.descs[i], p.first[i] = uint16(w>>16), uint16(w>>32)
		j := p.first[i]
		if p.descs[i] == 0 || p.descs[i] > q.size {
			return nil, fmt.Errorf("the record of requests in flight has %d descriptors for buffer %d", p.descs[i], i)
		}
		for k := range p.descs[i] {
			if j >= q.room || used[j] {
				return nil, fmt.Errorf("the record of requests in flight has no copy of descriptor %d of buffer %d", k, i)
			}
			used[j] = true
			p.next[j] = uint16(q.load(q.copyAt(j)+1) >> 48)
			j = p.next[j]
		}
	}
	q.inOrder(ids, counters)
	return ids, nil
}

// freeCopies makes those copies free that no chain of ids has.
func (q *Ring) freeCopies(ids []uint16) {
	p, used := q.packed, make([]bool, q.room)
	for _, id := range ids {
		j := p.first[id]
		for range p.descs[id] {
			used[j] = true
			j = p.next[j]
		}
	}
	for j := range q.room {
		if !used[j] {
			p.free = append(p.free, j)
		}
	}
}

// Held are the descriptors of a buffer in flight, as Hold was given them.
func (q *Ring) Held(id uint16) [][2]uint64 {
	p := q.packed
	descs, j := make([][2]uint64, p.descs[id]), p.first[id]
	for k := range descs {
		descs[k] = [2]uint64{q.load(q.copyAt(j)), q.load(q.copyAt(j)+1) & (1<<48 - 1)}
		j = p.next[j]
	}
	return descs
}
