package backend

import (
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
