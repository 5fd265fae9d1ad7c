package inflight

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/internal/memfault"
)

// A Start says how a ring starts: how many descriptors it has, where the device goes
// on (see Ring.Base), and which life of the ring it is.
type Start struct {
	Size uint16
	Base uint32
	Life uint64
}

// A Ring is the record of one queue. While the queue is served it belongs
// to the worker that serves it.
//
// What the other side can write to is read only in Begin and InFlight; from then
// on the worker knows it by itself.
type Ring struct {
	words []uint64
	own   int
	room  uint16

	size    uint16
	last    uint16 // head of the last batch
	used    uint16 // used index as the record has it
	counter uint64
	batch   []step // pushed, but not yet published
	packed  *packedRecord
}

// A step is a descriptor of the batch that is being made.
type step struct{ head, next uint16 }

// Has implements guestmem.Part.
func (q *Ring) Has(addr uintptr) bool {
	return q != nil && memfault.In(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(q.words))), 8*len(q.words)), addr)
}

func (q *Ring) load(i int) uint64 { return atomic.LoadUint64(&q.words[i]) }

func (q *Ring) store(i int, v uint64) { atomic.StoreUint64(&q.words[i], v) }

func (q *Ring) storeHead() {
	if p := q.packed; p != nil {
		q.store(wordHead, recordVersionPacked|uint64(len(q.batch))<<16|uint64(q.last)<<32|uint64(p.place)<<48)
		return
	}
	q.store(wordHead, recordVersion|uint64(q.size)<<16|uint64(q.last)<<32|uint64(q.used)<<48)
}

// User is the device's number that SetUser has stored; 0 before.
func (q *Ring) User() uint64 { return q.load(q.own + 1) }

// SetUser stores a number for the device.
func (q *Ring) SetUser(n uint64) { q.store(q.own+1, n) }

// Untrusted is a word of memory that the front-end can write to as well, at any time.
// It says what somebody has stored there, who need not have been zvhost: it has no
// meaning but for the one function that checks it.
type Untrusted uint64

// Note is what stands where SetNote stores: in this process or one before it; 0 before,
// and of no record.
func (q *Ring) Note() Untrusted {
	if q == nil {
		return 0
	}
	return Untrusted(q.load(q.own + 3))
}

// SetNote stores a note for the device, where there is a record.
func (q *Ring) SetNote(n uint64) {
	if q != nil {
		q.store(q.own+3, n)
	}
}

// Cache is as Note, and what SetCache stores.
func (q *Ring) Cache() Untrusted {
	if q == nil {
		return 0
	}
	return Untrusted(q.load(q.own + 4))
}

// SetCache stores the other note.
func (q *Ring) SetCache(n uint64) {
	if q != nil {
		q.store(q.own+4, n)
	}
}

// IsEmpty says whether the record says of itself that no ring was ever begun with it.
func (q *Ring) IsEmpty() bool { return q == nil || q.Life() == 0 }

// Life is the ring's life that the record is of; 0: of none.
func (q *Ring) Life() uint64 { return q.load(q.own) }

// InFlight are the marks of the descriptors that are in flight according to the
// record alone. Some may have been published by who then died.
func (q *Ring) InFlight() (marks []*[2]uint64) {
	head := q.load(wordHead)
	size := uint16(head >> 16)
	if head&0xffff == recordVersionPacked {
		size = uint16(q.load(q.own + 2))
	} else if head&0xffff != recordVersion {
		return nil
	}
	if q.Life() == 0 {
		return nil
	}
	for i := range min(size, q.room) {
		if q.load(wordDesc+2*int(i))&0xff != 0 {
			marks = append(marks, q.Mark(i))
		}
	}
	return marks
}

// Mark is the device's mark for the descriptor head.
func (q *Ring) Mark(head uint16) *[2]uint64 {
	return (*[2]uint64)(q.words[q.own+ownWords+2*int(head):])
}

// Begin attaches the record to a ring that starts, whose used index is used. If the record is
// of the same life as the ring, another process has served the ring before: base is where
// the device continues, and heads are the descriptors in flight, in the order in which they
// were taken. Otherwise the record is cleared, and the device continues at ring.Base. An
// error says that ring and record do not belong together.
func (q *Ring) Begin(ring Start, used uint16) (base uint16, heads []uint16, err error) {
	if ring.Size > q.room {
		return 0, nil, fmt.Errorf("the record of requests in flight was made for rings of %d descriptors at most, this one has %d", q.room, ring.Size)
	}
	q.batch, q.packed = slices.Grow(q.batch[:0], int(ring.Size)), nil
	if q.Life() != ring.Life {
		q.begin(ring, used)
		return uint16(ring.Base), nil, nil
	}
	head := q.load(wordHead)
	if head&0xffff != recordVersion || uint16(head>>16) != ring.Size {
		return 0, nil, fmt.Errorf("the record of requests in flight is of version %d and a ring of %d descriptors, and this ring has %d", head&0xffff, uint16(head>>16), ring.Size)
	}
	q.size, q.last, q.used = ring.Size, uint16(head>>32), uint16(head>>48)
	if err := q.closeBatch(used); err != nil {
		return 0, nil, err
	}
	counters := make([]uint64, q.size)
	for i := range q.size {
		if q.load(wordDesc+2*int(i))&0xff != 0 {
			counters[i] = q.load(wordDesc + 2*int(i) + 1)
			heads = append(heads, i)
		}
	}
	q.inOrder(heads, counters)
	return used + uint16(q.load(q.own+2)) + uint16(len(heads)), heads, nil
}

// lateCounter is where the numbers of requests in flight begin anew at the next Begin:
// nobody counts that far, but a front-end may have stored anything.
const lateCounter = 1 << 63

// inOrder sorts heads, which are in flight, by when they came, and has q.counter be what
// comes behind all of them.
func (q *Ring) inOrder(heads []uint16, counters []uint64) {
	slices.SortStableFunc(heads, func(a, b uint16) int { return cmp.Compare(counters[a], counters[b]) })
	q.counter = 0
	if n := len(heads); n > 0 {
		q.counter = counters[heads[n-1]] + 1
	}
	if q.counter-1 < lateCounter || len(heads) == 0 {
		return
	}
	for i, head := range heads {
		q.store(wordDesc+2*int(head)+1, uint64(i))
	}
	q.counter = uint64(len(heads))
}

// begin empties the record. The life comes last: until then it is of the one
// before.
func (q *Ring) begin(ring Start, used uint16) {
	q.store(q.own, 0)
	q.size, q.last, q.used, q.counter = ring.Size, 0, used, 0
	q.store(0, 0)
	q.storeHead()
	for i := range int(q.size) {
		q.store(wordDesc+2*i, 0)
		q.store(wordDesc+2*i+1, 0)
	}
	q.store(q.own+2, uint64(uint16(ring.Base)-used))
	q.store(q.own, ring.Life)
}

// closeBatch is step 1 of "When reconnecting": where the used index was moved and
// the record does not know of it, the last batch has come back.
func (q *Ring) closeBatch(used uint16) error {
	n, at := used-q.used, q.last
	if n > q.size {
		return fmt.Errorf("the used index is %d, %d ahead of the record of requests in flight, but the ring has %d entries", used, n, q.size)
	}
	for range n {
		if at >= q.size {
			return fmt.Errorf("the record of requests in flight names descriptor %d, but the ring has %d", at, q.size)
		}
		w := q.load(wordDesc + 2*int(at))
		q.store(wordDesc+2*int(at), w&^0xff)
		at = uint16(w >> 48)
	}
	q.used = used
	q.storeHead()
	return nil
}

// Take records that the chain at head was taken out of the ring, and returns its replay
// note, cleared.
func (q *Ring) Take(head uint16) *[2]uint64 {
	m := q.Mark(head)
	atomic.StoreUint64(&m[0], 0)
	q.store(wordDesc+2*int(head)+1, q.counter)
	q.counter++
	q.store(wordDesc+2*int(head), flagInFlight|q.packedBits(head))
	failpoint.Hit(failpoint.Take)
	return m
}

// Push records that the chain at head goes into the used ring. It is called before the
// driver can see that.
func (q *Ring) Push(head uint16) {
	q.store(wordDesc+2*int(head), flagInFlight|q.packedBits(head)|uint64(q.last)<<48)
	q.batch = append(q.batch, step{head, q.last})
	q.last = head
	q.storeHead()
	failpoint.Hit(failpoint.Pushed)
}

// Published records that the driver has seen all that was pushed: the used index has moved.
func (q *Ring) Published() {
	if len(q.batch) == 0 {
		return
	}
	failpoint.Hit(failpoint.Published)
	for _, s := range q.batch {
		q.store(wordDesc+2*int(s.head), q.packedBits(s.head)|uint64(s.next)<<48)
		failpoint.Hit(failpoint.Batch)
	}
	if p := q.packed; p != nil {
		for _, s := range q.batch {
			p.place = p.place.plus(p.descs[s.head], q.size)
			p.release(s.head)
		}
	}
	q.used += uint16(len(q.batch))
	q.batch = q.batch[:0]
	q.storeHead()
	failpoint.Hit(failpoint.Called)
}
