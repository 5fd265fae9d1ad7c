package iovec

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/memfault"
)

// Bytes is the memory of one vector.
func Bytes(v unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }

// skip is v without its first n bytes, n < v.Len.
func skip(v unix.Iovec, n uint64) unix.Iovec {
	return unix.Iovec{Base: (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n)), Len: v.Len - n}
}

// AppendHead appends the first n bytes of iov to dst: all of iov where it has no more.
// Empty vectors are left out.
func AppendHead(dst, iov []unix.Iovec, n uint64) []unix.Iovec {
	for i := 0; i < len(iov) && n > 0; i++ {
		v := iov[i]
		v.Len = min(v.Len, n)
		n -= v.Len
		if v.Len > 0 {
			dst = append(dst, v)
		}
	}
	return dst
}

// AppendTail appends iov without its first n bytes to dst. Empty vectors are left out.
func AppendTail(dst, iov []unix.Iovec, n uint64) []unix.Iovec {
	for _, v := range iov {
		if n >= v.Len { // a pointer behind the last byte may point into other memory
			n -= v.Len
			continue
		}
		dst, n = append(dst, skip(v, n)), 0
	}
	return dst
}

// Advance drops the first n bytes of iov, changing it in place, and returns
// what is left. n must not exceed the bytes that iov holds.
func Advance(iov []unix.Iovec, n uint64) []unix.Iovec {
	for n > 0 {
		if n < iov[0].Len {
			iov[0] = skip(iov[0], n)
			break
		}
		n -= iov[0].Len
		iov = iov[1:]
	}
	return iov
}

// CutLast takes the last byte off iov, which has at least one and whose last vector is
// not empty, and returns what stays, shortened in place, and where that byte is.
func CutLast(iov []unix.Iovec) ([]unix.Iovec, *byte) {
	last := &iov[len(iov)-1]
	stays := last.Len - 1
	cut := (*byte)(unsafe.Add(unsafe.Pointer(last.Base), stays))
	if stays == 0 {
		return iov[:len(iov)-1], cut
	}
	last.Len = stays
	return iov, cut
}

// Zero fills iov with zeroes from byte from on. Scatter copies data into iov, Gather
// fills data from iov, from byte from of iov on; iov must have so many bytes. The
// three fail with EFAULT, as a system call would, when the memory of iov is not there
// any more; the goroutine that calls them has debug.SetPanicOnFault on.
func Zero(iov []unix.Iovec, from uint64) (err error) {
	defer faulted(&err, iov)
	for i := range iov {
		if l := iov[i].Len; from >= l {
			from -= l
			continue
		}
		clear(Bytes(iov[i])[from:])
		from = 0
	}
	return nil
}

// Scatter copies data into iov: see Zero.
func Scatter(iov []unix.Iovec, from uint64, data []byte) (err error) {
	defer faulted(&err, iov)
	for i := 0; len(data) > 0; i++ {
		if from >= iov[i].Len {
			from -= iov[i].Len
			continue
		}
		data, from = data[copy(Bytes(iov[i])[from:], data):], 0
	}
	return nil
}

// Gather fills data from iov: see Zero.
func Gather(data []byte, iov []unix.Iovec, from uint64) (err error) {
	defer faulted(&err, iov)
	for i := 0; len(data) > 0; i++ {
		if from >= iov[i].Len {
			from -= iov[i].Len
			continue
		}
		data, from = data[copy(data, Bytes(iov[i])[from:]):], 0
	}
	return nil
}

// faulted makes EFAULT of a fault on the memory of iov. It is to be deferred. Any other
// panic is a bug and goes on.
func faulted(err *error, iov []unix.Iovec) {
	v := recover()
	if v == nil {
		return
	}
	addr, ok := memfault.Addr(v)
	for i := range iov {
		if ok && memfault.InRange(unsafe.Pointer(iov[i].Base), uintptr(iov[i].Len), addr) {
			*err = unix.EFAULT
			return
		}
	}
	panic(v)
}

// A Cursor walks over vectors, so that what is read or written may be split over them
// anywhere. It faults as any access to memory does: Zero's promise is not its.
type Cursor struct {
	Iov []unix.Iovec // what it has not passed yet, but for off
	off uint64       // bytes of Iov[0] that it has passed, less than its length
}

// Read copies the next len(dst) bytes to dst and passes them; it is false when
// there are not so many. Each byte is read once.
func (c *Cursor) Read(dst []byte) bool {
	for len(dst) > 0 {
		if len(c.Iov) == 0 {
			return false
		}
		n := copy(dst, Bytes(c.Iov[0])[c.off:])
		dst = dst[n:]
		c.pass(n)
	}
	return true
}

// Write copies src to the next len(src) bytes and passes them; it returns how
// many there was room for.
func (c *Cursor) Write(src []byte) (done int) {
	for len(src) > 0 && len(c.Iov) > 0 {
		n := copy(Bytes(c.Iov[0])[c.off:], src)
		src = src[n:]
		done += n
		c.pass(n)
	}
	return done
}

// pass steps over n bytes, which all lie in the first vector.
func (c *Cursor) pass(n int) {
	if c.off += uint64(n); c.off == c.Iov[0].Len {
		c.Iov, c.off = c.Iov[1:], 0
	}
}

// Rest returns what has not been passed yet, shortening the first vector in place.
func (c *Cursor) Rest() []unix.Iovec {
	if c.off > 0 {
		c.Iov[0] = skip(c.Iov[0], c.off)
		c.off = 0
	}
	return c.Iov
}
