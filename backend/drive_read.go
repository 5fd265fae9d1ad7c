package backend

import (
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// read serves what is written from the device and the rest as zeroes: not every
// drive lets one read behind the write pointer.
func (d *drive) read(r *driveRequest) {
	written, err := d.rules.read(d, r.Request)
	switch {
	case err != nil:
		d.fail(r, err)
		return
	case r.Bytes == 0:
		r.finish(nil)
		return
	case d.entry(int(r.Sector>>d.rules.shift)).State() == zone.ReadOnly:
		written = d.readable(r) // its write pointer is nothing to go by
	}
	iov, err := r.zeroBehind(written)
	if err != nil || written == 0 {
		d.end(r, err)
		return
	}
	r.step = driveRead
	r.io.Code, r.io.FD, r.io.Dsync = engine.Readv, int(d.f.Fd()), false
	r.io.Off, r.io.Len, r.io.Iov = d.offset(r.Sector), int64(written), iov
	r.move(d.reach)
}

// readable is how many bytes of r, a read, can have been written.
func (d *drive) readable(r *driveRequest) uint64 {
	z := &d.zones[r.Sector>>d.rules.shift]
	if z.typ == zone.Conventional {
		return r.Bytes
	}
	off := d.rules.offset(r.Sector)
	return min(r.Bytes, (max(z.capSecs, off)-off)<<SectorShift)
}

func (d *drive) readDone(r *driveRequest) {
	err := r.io.Err
	if err != nil && err != unix.EFAULT {
		d.examine(r, err) // perhaps the zone is offline by now
		return
	}
	d.end(r, err)
}
