package backend

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// read serves what is written from the device and the rest as zeroes: not every
// drive lets one read behind the write pointer.
func (d *drive) read(r *Request) {
	written, err := d.rules.read(d, r)
	switch {
	case err != nil:
		d.fail(r, err)
		return
	case r.Bytes == 0:
		r.lane.finish(r, nil)
		return
	case d.entry(int(r.Sector>>d.rules.shift)).state() == ReadOnly:
		written = r.Bytes // its write pointer is nothing to go by
	}
	iov, err := r.zeroBehind(written)
	if err != nil || written == 0 {
		d.end(r, err)
		return
	}
	r.step = stepRead
	r.io.Code, r.io.FD, r.io.Dsync = engine.Readv, int(d.f.Fd()), false
	r.io.Off, r.io.Len, r.io.Iov = d.offset(r.Sector), int64(written), iov
	if !d.direct(iov) {
		r.bounce = newBounce(written)
		r.io.Iov = r.bounce.iov[:]
	}
	r.lane.eng.Queue(&r.io)
}

func (d *drive) readDone(r *Request) {
	err := r.io.Err
	if b := r.bounce; b != nil {
		if err == nil {
			err = scatter(r.Iov, b.data)
		}
		r.bounce = nil
		b.free()
	}
	if err != nil && err != unix.EFAULT {
		d.examine(r, err) // perhaps the zone is offline by now
		return
	}
	d.end(r, err)
}

// direct says whether the device can move data to and from these vectors: their
// addresses suit its DMA, and each is whole blocks (bdev_iter_is_aligned in
// include/linux/blkdev.h).
func (d *drive) direct(iov []unix.Iovec) bool {
	block := uint64(d.info.LogicalBlockSize) - 1
	for i := range iov {
		if uint64(uintptr(unsafe.Pointer(iov[i].Base)))&d.alignment != 0 || iov[i].Len&block != 0 {
			return false
		}
	}
	return true
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
