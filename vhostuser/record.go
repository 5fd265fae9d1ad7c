package vhostuser

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A Record is what has to be known of the requests in flight by a process that
// goes on where another one died: shared memory in the layout of "Inflight I/O
// tracking", and behind each queue's part as much again of ours. It lives in a
// memfd that cannot shrink, so that no access to it faults.
//
// A queue's part, in 64-bit words (QueueRegionSplit and DescStateSplit; all
// numbers little-endian):
//
//	0        features, 0
//	1        version 1, descriptors, head of the last batch, used index: 16 bits each
//	2+2i     descriptor i: bits 0..7 in flight, bits 48..63 the next of its batch
//	3+2i     its place in the order in which requests came
//	own      which life of the ring this is of; own+1 who uses the disk (the
//	         device's number); own+2 by how much the available index was ahead of
//	         the used index when the ring started; own+3 and own+4 notes of the
//	         device's: see Note and Cache
//	own+8+2i a mark for the device: two words, cleared when i is taken
//	         (and behind these what a packed ring's has: record_packed.go)
//
// own is 2+2n rounded up to a cache line, n being the descriptors that there is
// room for.
type Record struct {
	file  *foreign.FD
	mem   []byte
	rings []RingRecord
	size  uint16
}

const (
	wordHead  = 1
	wordDesc  = 2
	ownWords  = 8
	lineWords = 8

	recordVersion = 1
	flagInFlight  = 1
)

func ownAt(size uint16) int { return (wordDesc + 2*int(size) + lineWords - 1) &^ (lineWords - 1) }

// ringWords is how many words the part of one queue has.
func ringWords(size uint16) int {
	return (ownAt(size) + ownWords + 4*int(size) + lineWords - 1) &^ (lineWords - 1)
}

// recordBytes is how large the record of so many queues is.
func recordBytes(queues int, size uint16) int64 { return int64(queues) * int64(ringWords(size)) * 8 }

// recordSeals keep the memory as large as it is.
const recordSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// NewRecord makes an empty record of so many queues, with room for rings of up to
// size descriptors, 1 to 32768. Memory is taken for what is used of it.
func NewRecord(queues int, size uint16) (*Record, error) {
	fd, err := unix.MemfdCreate("zvhost-inflight", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory for the record of requests in flight: %w", err)
	}
	f := foreign.NewFD(fd)
	if err = unix.Ftruncate(fd, recordBytes(queues, size)); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, recordSeals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("memory for the record of requests in flight: %w", err), f.Close())
	}
	return OpenRecord(f, 0, queues, size)
}

// errRecord is a record that somebody else made.
var errRecord = errors.New("the record of requests in flight is not one that zvhost has made: give the descriptor back that GET_INFLIGHT_FD gave, or none")

// OpenRecord takes over file and maps the record in it, which begins at byte off
// and was made for so many queues and rings of that size.
func OpenRecord(file *foreign.FD, off int64, queues int, size uint16) (*Record, error) {
	r, err := openRecord(file, off, queues, size)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

func openRecord(file *foreign.FD, off int64, queues int, size uint16) (*Record, error) {
	if queues < 1 || queues > MaxQueues || size < 1 || size > maxRingSize {
		return nil, fmt.Errorf("a record of requests in flight for %d queues of %d descriptors: 1 to %d and 1 to %d may be asked for", queues, size, MaxQueues, maxRingSize)
	}
	n := recordBytes(queues, size)
	var st unix.Stat_t
	if err := unix.Fstat(file.Int(), &st); err != nil {
		return nil, fmt.Errorf("the record of requests in flight: %w", err)
	}
	// Huge pages can be taken away by whoever has the file, with none left to take their
	// place, so they would fault like memory that has shrunk.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(file.Int(), &fs); err != nil {
		return nil, fmt.Errorf("the record of requests in flight: %w", err)
	}
	seals, err := unix.FcntlInt(uintptr(file.Int()), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 || fs.Type != unix.TMPFS_MAGIC || off != 0 || st.Size < n {
		return nil, errRecord
	}
	mem, err := unix.Mmap(file.Int(), 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the record of requests in flight: %w", err)
	}
	_ = unix.Madvise(mem, unix.MADV_DONTFORK) // see internal/foreign: another process must not keep it
	r := &Record{file: file, mem: mem, rings: make([]RingRecord, queues), size: size}
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/8)
	for i := range r.rings {
		r.rings[i] = RingRecord{words: words[i*ringWords(size):][:ringWords(size)], own: ownAt(size), room: size}
	}
	return r, nil
}

// Close lets go of the memory. No queue may use it any more.
func (r *Record) Close() error {
	if r == nil {
		return nil
	}
	return errors.Join(unix.Munmap(r.mem), r.file.Close())
}

// FD lends the descriptor of the memory out.
func (r *Record) FD() int { return r.file.Int() }

// Ring is the part of queue i, or nil where the record has none.
func (r *Record) Ring(i int) *RingRecord {
	if r == nil || i >= len(r.rings) {
		return nil
	}
	return &r.rings[i]
}

// Rings is how many queues it has room for.
func (r *Record) Rings() int {
	if r == nil {
		return 0
	}
	return len(r.rings)
}

// A RingRecord is the record of one queue. While the queue is served it belongs
// to the worker that serves it.
//
// What the other side can write to is read only in Begin and InFlight; from then
// on the worker knows it by itself.
type RingRecord struct {
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
func (q *RingRecord) Has(addr uintptr) bool {
	return q != nil && guestmem.Holds(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(q.words))), 8*len(q.words)), addr)
}

func (q *RingRecord) load(i int) uint64     { return atomic.LoadUint64(&q.words[i]) }
func (q *RingRecord) store(i int, v uint64) { atomic.StoreUint64(&q.words[i], v) }

func (q *RingRecord) storeHead() {
	if p := q.packed; p != nil {
		q.store(wordHead, recordVersionPacked|uint64(len(q.batch))<<16|uint64(q.last)<<32|uint64(p.place)<<48)
		return
	}
	q.store(wordHead, recordVersion|uint64(q.size)<<16|uint64(q.last)<<32|uint64(q.used)<<48)
}

// User is the device's number that SetUser has stored; 0 before.
func (q *RingRecord) User() uint64 { return q.load(q.own + 1) }

// SetUser stores a number for the device.
func (q *RingRecord) SetUser(n uint64) { q.store(q.own+1, n) }

// Untrusted is a word of memory that the front-end can write to as well, at any time.
// It says what somebody has stored there, who need not have been zvhost: it has no
// meaning but for the one function that checks it.
type Untrusted uint64

// Note is what stands where SetNote stores: in this process or one before it; 0 before,
// and of no record.
func (q *RingRecord) Note() Untrusted {
	if q == nil {
		return 0
	}
	return Untrusted(q.load(q.own + 3))
}

// SetNote stores a note for the device, where there is a record.
func (q *RingRecord) SetNote(n uint64) {
	if q != nil {
		q.store(q.own+3, n)
	}
}

// Cache is as Note, and what SetCache stores.
func (q *RingRecord) Cache() Untrusted {
	if q == nil {
		return 0
	}
	return Untrusted(q.load(q.own + 4))
}

// SetCache stores the other note.
func (q *RingRecord) SetCache(n uint64) {
	if q != nil {
		q.store(q.own+4, n)
	}
}

// IsEmpty says whether the record says of itself that no ring was ever begun with it.
func (q *RingRecord) IsEmpty() bool { return q == nil || q.life() == 0 }

// life is the ring's life that the record is of; 0: of none.
func (q *RingRecord) life() uint64 { return q.load(q.own) }

// InFlight are the marks of the descriptors that are in flight according to the
// record alone. Some may have been published by who then died.
func (q *RingRecord) InFlight() (marks []*[2]uint64) {
	head := q.load(wordHead)
	size := uint16(head >> 16)
	if head&0xffff == recordVersionPacked {
		size = uint16(q.load(q.own + 2))
	} else if head&0xffff != recordVersion {
		return nil
	}
	if q.life() == 0 {
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
func (q *RingRecord) Mark(head uint16) *[2]uint64 {
	return (*[2]uint64)(q.words[q.own+ownWords+2*int(head):])
}

// Begin begins to keep the record of a ring, whose used index is used. Where the
// record is of the life that the ring says, another process has served the ring
// before: base is then where to go on from, and heads are the descriptors in
// flight, in the order in which they came. Else it begins anew at ring.Base. An
// error means that ring and record do not belong together.
func (q *RingRecord) Begin(ring *Ring, used uint16) (base uint16, heads []uint16, err error) {
	if ring.Size > q.room {
		return 0, nil, fmt.Errorf("the record of requests in flight was made for rings of %d descriptors at most, this one has %d", q.room, ring.Size)
	}
	q.batch, q.packed = slices.Grow(q.batch[:0], int(ring.Size)), nil
	if q.life() != ring.Life {
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
func (q *RingRecord) inOrder(heads []uint16, counters []uint64) {
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
func (q *RingRecord) begin(ring *Ring, used uint16) {
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
func (q *RingRecord) closeBatch(used uint16) error {
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

// Take notes that the chain at head was taken out of the ring, and returns its
// mark, cleared.
func (q *RingRecord) Take(head uint16) *[2]uint64 {
	m := q.Mark(head)
	atomic.StoreUint64(&m[0], 0)
	q.store(wordDesc+2*int(head)+1, q.counter)
	q.counter++
	q.store(wordDesc+2*int(head), flagInFlight|q.packedBits(head))
	failpoint.Hit(failpoint.Take)
	return m
}

// Push notes that the chain at head goes into the used ring. It is called before
// the driver can see that.
func (q *RingRecord) Push(head uint16) {
	q.store(wordDesc+2*int(head), flagInFlight|q.packedBits(head)|uint64(q.last)<<48)
	q.batch = append(q.batch, step{head, q.last})
	q.last = head
	q.storeHead()
	failpoint.Hit(failpoint.Pushed)
}

// Published notes that the driver has been shown all that was pushed.
func (q *RingRecord) Published() {
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
