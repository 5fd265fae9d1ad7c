package backend

import (
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/iovec"
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
	r.clip = iovec.AppendHead(r.clip[:0], r.Iov, n)
	return r.clip, iovec.Zero(r.Iov, n)
}
