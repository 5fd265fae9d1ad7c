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
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: its file system has no direct I/O; leave --cache=direct out", err)
	}
	if err != nil {
		return nil, a, 0, err
	}
	var st unix.Statx_t
	err = unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align != 0 {
		block = max(st.Dio_offset_align, SectorSize)
		return f, reach{uint64(max(st.Dio_mem_align, 1)) - 1, uint64(block) - 1}, block, nil
	}
	// Before Linux 6.1, and where the file system does not say. A block of 512
	// bytes can be read or it cannot.
	block = SectorSize
	b := newBounce(SectorSize)
	defer b.free()
	if _, err := unix.Pread(int(f.Fd()), b.data, SectorSize); err == unix.EINVAL {
		block = pageBytes
	}
	return f, reach{pageBytes - 1, uint64(block) - 1}, block, nil
}

// move queues the read or write in r.io, by way of memory of our own where the
// guest's is not within reach of the device.
func (l *Lane) move(r *Request, a reach) {
	if !a.has(r.io.Iov) {
		b := newBounce(uint64(r.io.Len))
		if r.io.Code == engine.Writev {
			if err := gather(b.data, r.io.Iov); err != nil {
				b.free()
				r.io.N, r.io.Err = 0, err
				l.unmoved.push(r)
				return
			}
		}
		r.detour, r.far = b, r.io.Iov
		r.io.Iov = b.iov[:]
	}
	l.eng.Queue(&r.io)
}

// arrive ends a detour.
func (r *Request) arrive() {
	b := r.detour
	if r.io.Code == engine.Readv && r.io.Err == nil {
		r.io.Err = scatter(r.far, b.data)
	}
	r.io.Iov, r.detour, r.far = r.far, nil, nil
	b.free()
}

// A bounce is memory that every device can take, for data that stands where this
// one cannot reach it.
type bounce struct {
	memory []byte
	data   []byte // the part in use, on a page's border
	iov    [1]unix.Iovec
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

// scatter copies data into iov, and gather fills data from iov. They fail with
// EFAULT, as a system call would, when the front-end has taken the memory away.
func scatter(iov []unix.Iovec, data []byte) (err error) {
	defer faulted(&err)
	for i := 0; len(data) > 0; i++ {
		data = data[copy(bytesOf(&iov[i]), data):]
	}
	return nil
}

func gather(data []byte, iov []unix.Iovec) (err error) {
	defer faulted(&err)
	for i := 0; len(data) > 0; i++ {
		data = data[copy(data, bytesOf(&iov[i])):]
	}
	return nil
}

// faulted makes EFAULT of a fault. The goroutine has debug.SetPanicOnFault on.
func faulted(err *error) {
	if recover() != nil {
		*err = unix.EFAULT
	}
}
