package disk

import (
	"errors"
	"math/bits"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/iovec"
)

// A Reach is the memory that a device can move data to and from without the page
// cache in between: what addresses and lengths have to be multiples of, less one.
// The zero reach is all memory, that of the page cache.
type Reach struct {
	Address uint64
	Length  uint64
	// whole is what the I/O as a whole has to be a multiple of, its place in the file and
	// its length, less one.
	whole uint64
}

// Has says whether all of iov is within reach (bdev_iter_is_aligned in
// include/linux/blkdev.h).
func (a Reach) Has(iov []unix.Iovec) bool {
	if a == (Reach{}) {
		return true
	}
	for i := range iov {
		if uint64(uintptr(unsafe.Pointer(iov[i].Base)))&a.Address != 0 || iov[i].Len&a.Length != 0 {
			return false
		}
	}
	return true
}

// DirectError is err, with which a file could not be opened for direct I/O.
func DirectError(err error) error {
	if errors.Is(err, unix.EINVAL) {
		err = Unfitf("%w: its file system has no direct I/O: leave --cache=direct out", unix.EINVAL)
	}
	return err
}

// ReachOf is what memory a file that is open for direct I/O takes, and in what units of
// bytes, counted from the beginning, it is read and written.
func ReachOf(f *os.File) (a Reach, block uint32) {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align != 0 {
		block = max(st.Dio_offset_align, SectorSize)
		return Reach{Address: uint64(max(st.Dio_mem_align, 1)) - 1, Length: uint64(block) - 1}, block
	}
	// Before Linux 6.1, and where the file system does not say. A block of 512
	// bytes can be read or it cannot.
	block = SectorSize
	b := NewBounce(SectorSize)
	defer b.Free()
	if _, err := unix.Pread(int(f.Fd()), b.Data, SectorSize); err == unix.EINVAL {
		block = PageBytes
	}
	return Reach{Address: PageBytes - 1, Length: uint64(block) - 1}, block
}

// SetUnit has data moved in units of so many bytes, which direct I/O on f takes, under a
// disk with blocks of so many; what a file system takes can be another the next time,
// and what a guest has seen of its disk cannot. It returns the unit if that is the
// larger one, else 0.
func (a *Reach) SetUnit(unit, block uint32) (int64, error) {
	switch {
	case unit <= block:
		return 0, nil
	case bits.OnesCount32(unit) != 1 || unit > BounceBytes:
		return 0, Unfitf("direct I/O there takes blocks of %d bytes: leave --cache=direct out", unit)
	}
	a.whole = uint64(unit) - 1
	return int64(unit), nil
}

// A guest says how large its requests are, up to 4 GiB each, and how many there are.
// What memory they take here is not for it to say: this much of a request is copied
// at a time, and of so many requests of a lane; others wait.
const (
	BounceBytes = 256 << 10
	MaxBounces  = 32
)

// Move queues the read or write in r.io, by way of memory of our own where the
// guest's is not within reach of the device, or where the I/O is not whole blocks of it.
// A write like that has its part of the file (edged.begin): what is no whole block is
// read first.
func (r *Request) Move(a Reach) {
	l := r.Lane
	whole := uint64(r.IO.Off|r.IO.Len)&a.whole == 0
	r.unit = 1
	if !whole {
		r.unit = int64(a.whole + 1)
	}
	switch {
	case whole && a.Has(r.IO.Iov):
		l.eng.Queue(&r.IO)
	case l.detours == MaxBounces:
		l.waiting.Push(r)
	default:
		l.depart(r)
	}
}

// Borrow is true when r may take memory of ours, until it repays it. If not, r waits,
// and its disk's Continue is called for it when it can try again.
func (r *Request) Borrow() bool {
	l := r.Lane
	if l.detours == MaxBounces {
		r.borrows = true
		l.waiting.Push(r)
		return false
	}
	l.detours++
	return true
}

// Repay says that r needs the memory no more that it borrowed.
func (r *Request) Repay() { r.Lane.detours-- }

// Lent is how many requests of the lane have memory of ours at the moment.
func (l *Lane) Lent() int { return l.detours }

// depart begins a detour.
func (l *Lane) depart(r *Request) {
	if r.borrows {
		r.borrows = false
		r.disk.Continue(r)
		return
	}
	l.detours++
	io := &r.IO
	b := NewBounce(min(uint64(AlignUp(io.Len, r.unit)+r.unit-1), BounceBytes))
	r.Bounce = b
	b.code, b.Guest, b.Off, b.Len, b.Moved = io.Code, io.Iov, io.Off, io.Len, 0
	b.room = b.Data[:int64(len(b.Data))&^(r.unit-1)]
	if io.N, io.Err = 0, nil; !l.carry(r) {
		l.ashore(r)
		l.unmoved.Push(r)
	}
}

// carry queues the next part of a detour. It is false, with the error in r.io,
// when the guest's memory is gone.
func (l *Lane) carry(r *Request) bool {
	b, io := r.Bounce, &r.IO
	at, end := b.Off+b.Moved, b.Off+b.Len
	from := at &^ (r.unit - 1)
	to := min(AlignUp(end, r.unit), from+int64(len(b.room)))
	io.Code, b.patched = b.code, false
	if b.code == engine.Writev {
		switch {
		case from != at || end-at < r.unit: // a part of a block, which is read first
			to = from + r.unit
			io.Code, b.patched = engine.Readv, true
		default:
			to = min(end&^(r.unit-1), to)
		}
	}
	b.Data = b.room[:to-from]
	b.skip, b.Part = at-from, min(end, to)-at
	if io.Code == engine.Writev {
		if io.Err = iovec.Gather(b.Data, b.Guest, uint64(b.Moved)); io.Err != nil {
			return false
		}
	}
	b.Vec[0].Len = uint64(len(b.Data))
	io.Off, io.Len, io.Iov = from, to-from, b.Vec[:]
	l.eng.Queue(io)
	return true
}

// arrive takes note that a part of a detour has been made, and is true when there
// is no other.
func (l *Lane) arrive(r *Request) bool {
	b, io := r.Bounce, &r.IO
	if b.patched && io.Code == engine.Readv { // the block that a part of is written
		if io.Err == nil {
			io.Err = iovec.Gather(b.Data[b.skip:][:b.Part], b.Guest, uint64(b.Moved))
		}
		if io.Err == nil {
			io.Code = engine.Writev
			l.eng.Queue(io)
			return false
		}
		io.N = 0 // nothing is written
	}
	if b.code == engine.Readv && io.Err == nil {
		io.Err = iovec.Scatter(b.Guest, uint64(b.Moved), b.Data[b.skip:][:b.Part])
	}
	b.Moved += max(min(io.N-b.skip, b.Part), 0)
	if io.Err == nil && b.Moved < b.Len && l.carry(r) {
		return false
	}
	l.ashore(r)
	return true
}

// ashore ends a detour: r.io is what it was. Done lets the next one depart.
func (l *Lane) ashore(r *Request) {
	b, io := r.Bounce, &r.IO
	io.Code, io.Off, io.Len, io.Iov, io.N = b.code, b.Off, b.Len, b.Guest, b.Moved
	r.Bounce, b.Guest, b.room = nil, nil, nil
	b.Free()
	l.detours--
}

// A Bounce is memory that every device can take, for data that stands where this
// one cannot reach it.
type Bounce struct {
	memory []byte
	Data   []byte // the part in use, on a page's border
	Vec    [1]unix.Iovec

	// Of a detour: what the I/O was, and how much of it has been made.
	code     engine.Code
	Guest    []unix.Iovec
	Off, Len int64
	Moved    int64
	// Of its part that is under way: where in data it begins, and how long it is. data is
	// whole blocks, and patched says that what is beside the part has to be read first.
	room       []byte
	skip, Part int64
	patched    bool
}

const PageBytes = 4096

var bounces = sync.Pool{New: func() any { return new(Bounce) }}

// NewBounce returns memory for n bytes, n > 0.
func NewBounce(n uint64) *Bounce {
	b := bounces.Get().(*Bounce)
	if uint64(len(b.memory)) < n+PageBytes {
		b.memory = make([]byte, n+PageBytes)
	}
	at := -uint64(uintptr(unsafe.Pointer(&b.memory[0]))) & (PageBytes - 1)
	b.Data = b.memory[at : at+n]
	b.Vec[0] = unix.Iovec{Base: &b.Data[0], Len: n}
	return b
}

// Free gives the memory back. Nobody may use b after it.
func (b *Bounce) Free() { bounces.Put(b) }

// ZeroBehind zeroes what is behind the first n bytes of r's memory, n <= r.Bytes,
// and returns the vectors of those.
func (r *Request) ZeroBehind(n uint64) ([]unix.Iovec, error) {
	if n == r.Bytes {
		return r.Iov, nil
	}
	r.Clip = iovec.AppendHead(r.Clip[:0], r.Iov, n)
	return r.Clip, iovec.Zero(r.Iov, n)
}
