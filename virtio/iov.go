package virtio

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A cursor walks over vectors of guest memory, so that headers and segments may
// be split over them anywhere ("Message Framing").
type cursor struct {
	iov []unix.Iovec
	off uint64 // bytes of iov[0] already passed, less than its length
}

// read copies the next len(dst) bytes to dst and passes them; it is false when
// there are not so many. Guest memory is read once.
func (c *cursor) read(dst []byte) bool {
	for len(dst) > 0 {
		if len(c.iov) == 0 {
			return false
		}
		n := copy(dst, guestmem.IovecBytes(c.iov[0])[c.off:])
		dst = dst[n:]
		c.pass(n)
	}
	return true
}

// write copies src to the next len(src) bytes and passes them; it returns how
// many there were room for.
func (c *cursor) write(src []byte) (done int) {
	for len(src) > 0 && len(c.iov) > 0 {
		n := copy(guestmem.IovecBytes(c.iov[0])[c.off:], src)
		src = src[n:]
		done += n
		c.pass(n)
	}
	return done
}

// pass steps over n bytes, which all lie in the first vector.
func (c *cursor) pass(n int) {
	if c.off += uint64(n); c.off == c.iov[0].Len {
		c.iov, c.off = c.iov[1:], 0
	}
}

// rest returns what has not been passed yet, shortening the first vector in
// place.
func (c *cursor) rest() []unix.Iovec {
	if c.off > 0 {
		v := &c.iov[0]
		v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), c.off))
		v.Len -= c.off
		c.off = 0
	}
	return c.iov
}

// cutStatus takes the last byte off iov, which has at least one, and returns
// what stays, shortened in place, and where that byte is.
func cutStatus(iov []unix.Iovec) ([]unix.Iovec, *byte) {
	last := &iov[len(iov)-1]
	keep := last.Len - 1
	status := (*byte)(unsafe.Add(unsafe.Pointer(last.Base), keep))
	if keep == 0 {
		return iov[:len(iov)-1], status
	}
	last.Len = keep
	return iov, status
}
