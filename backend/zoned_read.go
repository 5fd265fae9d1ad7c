package backend

import (
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
)

// read serves what is written from the file and the rest as zeroes, without
// asking the file: what lies there is nobody's business.
func (d *zoned) read(r *zonedRequest) {
	file, err := d.rules.Read(d, r.Request)
	switch {
	case err != nil:
		d.fail(r, err)
		return
	case r.Bytes == 0:
		r.Finish(nil)
		return
	case d.faults.Strike(r.Request, r.Sector, r.Bytes>>disk.SectorShift):
		d.fail(r, r.Fault.Err)
		return
	}
	iov, err := r.ZeroBehind(file)
	if err != nil || file == 0 {
		d.end(r, err)
		return
	}
	r.step = zonedMoved
	r.IO.Code, r.IO.FD, r.IO.Dsync = engine.Readv, d.img.DataFD, false
	r.IO.Off, r.IO.Len, r.IO.Iov = d.img.Offset(r.Sector), int64(file), iov
	d.move(r)
}
