package drive

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/iovec"
)

// A write that is larger than what the device takes at once is made in parts,
// one after the other. The kernel would split it, too, but send all parts
// whatever becomes of the first, and then it may be the error of a later one, EIO
// for not being at the write pointer, that is told, and not the one that says
// why (bio_chain_endio in block/bio.c keeps the first that ends).

// issue starts the I/O of r and of those that follow it.
func (d *Drive) issue(r *request) {
	if !d.device.take(r) {
		return
	}
	r.Clip, r.part = r.Clip[:0], 0
	total, direct := uint64(0), true
	for m := r; m != nil; m = m.following(r) {
		iov := m.Iov
		if m.landed > 0 { // the rest of a write that another daemon had begun
			iov = iovec.AppendTail(nil, iov, m.landed<<disk.SectorShift)
		}
		direct = direct && d.reach.Has(iov)
		for _, v := range iov {
			total += v.Len
			for v.Len > d.partBytes || pagesOf(v) > d.partPages {
				part := v
				if part.Len = min(v.Len, d.partBytes); pagesOf(part) > d.partPages {
					part.Len = (d.partPages - 1) * disk.PageBytes
				}
				r.Clip = append(r.Clip, part)
				v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), part.Len))
				v.Len -= part.Len
			}
			r.Clip = append(r.Clip, v)
		}
	}
	off := d.offset(uint64(r.zone)<<d.rules.Shift + r.from + r.landed)
	switch {
	case direct:
		r.step = stepWrote
		d.issuePart(r, off)
	case !r.Borrow(): // issue is called again
	default:
		r.step, r.copied = stepWrote, disk.NewBounce(min(total, d.copyBytes()))
		r.copied.Guest, r.copied.Off, r.copied.Len = r.Clip, off, int64(total)
		if !d.issueCopy(r, off) {
			d.wrote(r)
		}
	}
}

// copyBytes is how much is copied at a time of writes that the device cannot reach:
// what the device takes at once, too, and ends where one may write.
func (d *Drive) copyBytes() uint64 {
	granularity := uint64(d.info.Zoned.WriteGranularity)
	return max(min(disk.BounceBytes, d.partBytes, d.partPages*disk.PageBytes)&^(granularity-1), granularity)
}

// issueCopy starts the I/O of the next part of r that is copied, at byte off of the
// device. It is false, with the error in r.io, when the guest's memory is gone.
func (d *Drive) issueCopy(r *request, off int64) bool {
	b, io := r.copied, &r.IO
	b.Data = b.Data[:min(b.Off+b.Len-off, int64(len(b.Data)))]
	b.Vec[0].Len = uint64(len(b.Data))
	io.Code, io.FD, io.Dsync = engine.Writev, int(d.f.Fd()), r.Stable
	io.Off, io.Len, io.Iov, io.N = off, int64(len(b.Data)), b.Vec[:], 0
	if io.Err = iovec.Gather(b.Data, b.Guest, uint64(off-b.Off)); io.Err != nil {
		return false
	}
	r.StartIO()
	return true
}

// proceed starts the I/O of the next part of r, and is false when there is none, or
// it cannot be had.
func (d *Drive) proceed(r *request) bool {
	off, b := r.IO.Off+r.IO.Len, r.copied
	switch {
	case b == nil && r.part < len(r.Clip):
		d.issuePart(r, off)
		return true
	case b != nil && off < b.Off+b.Len:
		return d.issueCopy(r, off)
	}
	return false
}

// issuePart starts the I/O of the next vectors of r.clip, from the one numbered
// r.part on: as many as the device takes at once and end where one may write, at
// byte off of it. Writes to conventional zones are whole blocks, which can be less
// than the granularity: their end is an end, too.
func (d *Drive) issuePart(r *request, off int64) {
	granularity := uint64(d.info.Zoned.WriteGranularity)
	from, length := r.part, uint64(0)
	var bytes, pages uint64
	for i := from; i < len(r.Clip); i++ {
		bytes, pages = bytes+r.Clip[i].Len, pages+pagesOf(r.Clip[i])
		if length > 0 && (bytes > d.partBytes || pages > d.partPages) {
			break
		}
		if bytes&(granularity-1) == 0 || i == len(r.Clip)-1 {
			r.part, length = i+1, bytes
		}
	}
	r.IO.Code, r.IO.FD, r.IO.Dsync = engine.Writev, int(d.f.Fd()), r.Stable
	r.IO.Off, r.IO.Len, r.IO.Iov = off, int64(length), r.Clip[from:r.part]
	r.StartIO()
}

// pagesOf is how many pages v touches. Each may be a segment of its own to the
// device.
func pagesOf(v unix.Iovec) uint64 {
	at := uint64(uintptr(unsafe.Pointer(v.Base))) & (disk.PageBytes - 1)
	return (at + v.Len + disk.PageBytes - 1) / disk.PageBytes
}
