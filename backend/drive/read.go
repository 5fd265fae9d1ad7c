package drive

import (
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// read serves what is written from the device and the rest as zeroes: not every
// drive lets one read behind the write pointer.
func (d *Drive) read(r *request) {
	written, err := d.rules.Read(d, r.Request)
	switch {
	case err != nil:
		d.fail(r, err)
		return
	case r.Bytes == 0:
		r.Finish(nil)
		return
	case d.Entry(int(r.Sector>>d.rules.Shift)).State() == zone.ReadOnly:
		written = d.readable(r) // its write pointer is nothing to go by
	}
	iov, err := r.ZeroBehind(written)
	if err != nil || written == 0 {
		d.end(r, err)
		return
	}
	r.step = stepRead
	r.IO.Code, r.IO.FD, r.IO.Dsync = engine.Readv, int(d.f.Fd()), false
	r.IO.Off, r.IO.Len, r.IO.Iov = d.offset(r.Sector), int64(written), iov
	r.Move(d.reach)
}

// readable is how many bytes of r, a read, can have been written.
func (d *Drive) readable(r *request) uint64 {
	z := &d.zones[r.Sector>>d.rules.Shift]
	if z.typ == zone.Conventional {
		return r.Bytes
	}
	off := d.rules.Offset(r.Sector)
	return min(r.Bytes, (max(z.capSecs, off)-off)<<disk.SectorShift)
}

func (d *Drive) readDone(r *request) {
	err := r.IO.Err
	if err != nil && err != unix.EFAULT {
		d.examine(r, err) // perhaps the zone is offline by now
		return
	}
	d.end(r, err)
}
