package backend

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// read serves what is written from the file and the rest as zeroes, without
// asking the file: what lies there is nobody's business.
func (d *zoned) read(r *zonedRequest) {
	file, err := d.rules.read(d, r.Request)
	switch {
	case err != nil:
		d.fail(r, err)
		return
	case r.Bytes == 0:
		r.finish(nil)
		return
	case d.faults.strike(r.Request, r.Sector, r.Bytes>>SectorShift):
		d.fail(r, r.fate.err)
		return
	}
	iov, err := r.zeroBehind(file)
	if err != nil || file == 0 {
		d.end(r, err)
		return
	}
	r.step = zonedMoved
	r.io.Code, r.io.FD, r.io.Dsync = engine.Readv, d.img.data, false
	r.io.Off, r.io.Len, r.io.Iov = d.img.offset(r.Sector), int64(file), iov
	d.move(r)
}

// zeroBehind zeroes what is behind the first n bytes of r's memory, n <= r.Bytes,
// and returns the vectors of those.
func (r *Request) zeroBehind(n uint64) ([]unix.Iovec, error) {
	if n == r.Bytes {
		return r.Iov, nil
	}
	r.clip = clipIovecs(r.clip[:0], r.Iov, n)
	return r.clip, zeroFrom(r.Iov, n)
}

// zeroFrom fills iov with zeroes from byte n on. It fails with EFAULT, as a
// system call would, when the front-end has taken the memory away; the caller's
// goroutine has debug.SetPanicOnFault on.
func zeroFrom(iov []unix.Iovec, n uint64) (err error) {
	defer faulted(&err, iov)
	for i := range iov {
		if l := iov[i].Len; n >= l {
			n -= l
			continue
		}
		clear(bytesOf(&iov[i])[n:])
		n = 0
	}
	return nil
}

// bytesOf is the memory of one iovec. Iovecs are made by guestmem over a
// mapping that outlives every request, so pointer and length are valid.
func bytesOf(v *unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }

// clipIovecs appends the first n bytes of iov to dst.
func clipIovecs(dst, iov []unix.Iovec, n uint64) []unix.Iovec {
	for i := range iov {
		if n == 0 {
			break
		}
		v := iov[i]
		v.Len = min(v.Len, n)
		n -= v.Len
		if v.Len > 0 {
			dst = append(dst, v)
		}
	}
	return dst
}
