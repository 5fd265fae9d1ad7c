package backend

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// A write that is larger than what the device takes at once is made in parts,
// one after the other. The kernel would split it, too, but send all parts
// whatever becomes of the first, and then it may be the error of a later one, EIO
// for not being at the write pointer, that is told, and not the one that says
// why (bio_chain_endio in block/bio.c keeps the first that ends).

// issue starts the I/O of r and of those that follow it.
func (d *drive) issue(r *Request) {
	if !d.device.take(r) {
		return
	}
	r.clip, r.step, r.seg = r.clip[:0], stepWrite, 0
	for m := r; m != nil; m = m.following(r) {
		iov, bytes := m.Iov, m.Bytes
		if m.turn > 0 { // the rest of a write that another daemon had begun
			iov, bytes = rest(iov, m.turn<<SectorShift), bytes-m.turn<<SectorShift
		}
		if !d.reach.has(iov) {
			m.bounce = newBounce(bytes)
			have := iov
			iov = m.bounce.iov[:]
			if r.io.Err = gather(m.bounce.data, have, 0); r.io.Err != nil {
				d.wrote(r)
				return
			}
		}
		for _, v := range iov {
			for v.Len > d.partBytes || pagesOf(v) > d.partPages {
				part := v
				if part.Len = min(v.Len, d.partBytes); pagesOf(part) > d.partPages {
					part.Len = (d.partPages - 1) * pageBytes
				}
				r.clip = append(r.clip, part)
				v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), part.Len))
				v.Len -= part.Len
			}
			r.clip = append(r.clip, v)
		}
	}
	d.issuePart(r, d.offset(uint64(r.zone)<<d.rules.shift+r.from+r.turn))
}

// issuePart starts the I/O of the next vectors of r.clip, from the one numbered
// r.seg on: as many as the device takes at once and end where one may write, at
// byte off of it. Writes to conventional zones are whole blocks, which can be less
// than the granularity: their end is an end, too.
func (d *drive) issuePart(r *Request, off int64) {
	granularity := uint64(d.info.Zoned.WriteGranularity)
	from, length := r.seg, uint64(0)
	var bytes, pages uint64
	for i := from; int(i) < len(r.clip); i++ {
		bytes, pages = bytes+r.clip[i].Len, pages+pagesOf(r.clip[i])
		if length > 0 && (bytes > d.partBytes || pages > d.partPages) {
			break
		}
		if bytes&(granularity-1) == 0 || int(i) == len(r.clip)-1 {
			r.seg, length = i+1, bytes
		}
	}
	r.io.Code, r.io.FD, r.io.Dsync = engine.Writev, int(d.f.Fd()), r.Stable
	r.io.Off, r.io.Len, r.io.Iov = off, int64(length), r.clip[from:r.seg]
	r.lane.eng.Queue(&r.io)
}

// pagesOf is how many pages v touches. Each may be a segment of its own to the
// device.
func pagesOf(v unix.Iovec) uint64 {
	at := uint64(uintptr(unsafe.Pointer(v.Base))) & (pageBytes - 1)
	return (at + v.Len + pageBytes - 1) / pageBytes
}
