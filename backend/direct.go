package backend

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// A reach is the memory that a device can move data to and from without the page
// cache in between: what addresses and lengths have to be multiples of, less one.
// The zero reach is all memory, that of the page cache.
type reach struct {
	address uint64
	length  uint64
}

// has says whether all of iov is within reach (bdev_iter_is_aligned in
// include/linux/blkdev.h).
func (a reach) has(iov []unix.Iovec) bool {
	if a == (reach{}) {
		return true
	}
	for i := range iov {
		if uint64(uintptr(unsafe.Pointer(iov[i].Base)))&a.address != 0 || iov[i].Len&a.length != 0 {
			return false
		}
	}
	return true
}

// openDirect opens a file or block device for I/O past the page cache, and returns
// what memory it takes, and in what units of bytes, counted from the beginning, it
// is read and written.
func openDirect(path string, mode int) (_ *os.File, a reach, block uint32, err error) {
	f, err := os.OpenFile(path, mode|unix.O_DIRECT, 0)
	if err != nil {
		return nil, a, 0, directError(err)
	}
	a, block = reachOf(f)
	return f, a, block, nil
}

// directError is err, with which a file could not be opened for direct I/O.
func directError(err error) error {
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: its file system has no direct I/O; leave --cache=direct out", err)
	}
	return err
}

// reachOf is what memory a file that is open for direct I/O takes, and in what units of
// bytes, counted from the beginning, it is read and written.
func reachOf(f *os.File) (a reach, block uint32) {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align != 0 {
		block = max(st.Dio_offset_align, SectorSize)
		return reach{uint64(max(st.Dio_mem_align, 1)) - 1, uint64(block) - 1}, block
	}
	// Before Linux 6.1, and where the file system does not say. A block of 512
	// bytes can be read or it cannot.
	block = SectorSize
	b := newBounce(SectorSize)
	defer b.free()
	if _, err := unix.Pread(int(f.Fd()), b.data, SectorSize); err == unix.EINVAL {
		block = pageBytes
	}
	return reach{pageBytes - 1, uint64(block) - 1}, block
}

// A guest says how large its requests are, up to 4 GiB each, and how many there are.
// What memory they take here is not for it to say: this much of a request is copied
// at a time, and of so many requests of a lane; others wait.
const (
	detourBytes = 256 << 10
	maxDetours  = 32
)

// move queues the read or write in r.io, by way of memory of our own where the
// guest's is not within reach of the device.
func (l *Lane) move(r *Request, a reach) {
	switch {
	case a.has(r.io.Iov):
		l.eng.Queue(&r.io)
	case l.detours == maxDetours:
		l.waiting.push(r)
	default:
		l.depart(r)
	}
}

// lend is true when r may take memory of ours for as long as it adds to l.detours.
// If not, r waits, and its disk's ioDone is called for it when it can try again.
func (l *Lane) lend(r *Request) bool {
	if l.detours == maxDetours {
		l.waiting.push(r)
		return false
	}
	l.detours++
	return true
}

// depart begins a detour.
func (l *Lane) depart(r *Request) {
	if r.step == stepIssue || r.step == stepAsk { // see lend
		r.disk.ioDone(r)
		return
	}
	l.detours++
	io := &r.io
	b := newBounce(min(uint64(io.Len), detourBytes))
	r.detour = b
	b.far, b.off, b.len, b.moved = io.Iov, io.Off, io.Len, 0
	if io.N, io.Err = 0, nil; !l.carry(r) {
		l.ashore(r)
		l.unmoved.push(r)
	}
}

// carry queues the next part of a detour. It is false, with the error in r.io,
// when the guest's memory is gone.
func (l *Lane) carry(r *Request) bool {
	b, io := r.detour, &r.io
	b.data = b.data[:min(b.len-b.moved, int64(len(b.data)))]
	if io.Code == engine.Writev {
		if io.Err = gather(b.data, b.far, uint64(b.moved)); io.Err != nil {
			return false
		}
	}
	b.iov[0].Len = uint64(len(b.data))
	io.Off, io.Len, io.Iov = b.off+b.moved, int64(len(b.data)), b.iov[:]
	l.eng.Queue(io)
	return true
}

// arrive takes note that a part of a detour has been made, and is true when there
// is no other.
func (l *Lane) arrive(r *Request) bool {
	b, io := r.detour, &r.io
	if io.Code == engine.Readv && io.Err == nil {
		io.Err = scatter(b.far, uint64(b.moved), b.data)
	}
	b.moved += io.N
	if io.Err == nil && b.moved < b.len && l.carry(r) {
		return false
	}
	l.ashore(r)
	return true
}

// ashore ends a detour: r.io is what it was. Done lets the next one depart.
func (l *Lane) ashore(r *Request) {
	b, io := r.detour, &r.io
	io.Off, io.Len, io.Iov, io.N = b.off, b.len, b.far, b.moved
	r.detour, b.far = nil, nil
	b.free()
	l.detours--
}

// A bounce is memory that every device can take, for data that stands where this
// one cannot reach it.
type bounce struct {
	memory []byte
	data   []byte // the part in use, on a page's border
	iov    [1]unix.Iovec

	// Of a detour: what the I/O was, and how much of it has been made.
	far      []unix.Iovec
	off, len int64
	moved    int64
}

const pageBytes = 4096

var bounces = sync.Pool{New: func() any { return new(bounce) }}

// newBounce returns memory for n bytes, n > 0.
func newBounce(n uint64) *bounce {
	b := bounces.Get().(*bounce)
	if uint64(len(b.memory)) < n+pageBytes {
		b.memory = make([]byte, n+pageBytes)
	}
	at := -uint64(uintptr(unsafe.Pointer(&b.memory[0]))) & (pageBytes - 1)
	b.data = b.memory[at : at+n]
	b.iov[0] = unix.Iovec{Base: &b.data[0], Len: n}
	return b
}

func (b *bounce) free() { bounces.Put(b) }

// scatter copies data into iov, and gather fills data from iov, from byte at of it
// on. They fail with EFAULT, as a system call would, when the front-end has taken
// the memory away.
func scatter(iov []unix.Iovec, at uint64, data []byte) (err error) {
	defer faulted(&err, iov)
	for i := 0; len(data) > 0; i++ {
		if at >= iov[i].Len {
			at -= iov[i].Len
			continue
		}
		data, at = data[copy(bytesOf(&iov[i])[at:], data):], 0
	}
	return nil
}

func gather(data []byte, iov []unix.Iovec, at uint64) (err error) {
	defer faulted(&err, iov)
	for i := 0; len(data) > 0; i++ {
		if at >= iov[i].Len {
			at -= iov[i].Len
			continue
		}
		data, at = data[copy(data, bytesOf(&iov[i])[at:]):], 0
	}
	return nil
}
