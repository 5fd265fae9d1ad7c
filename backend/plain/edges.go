package plain

import (
	"fmt"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
)

// This file is about an ordinary disk whose blocks are smaller than those that its file
// or device is read, written or cleared in.

// setEdges finds out whether it is one: its device has blocks of own bytes, and the
// guest is shown blocks of block bytes.
func (p *Disk) setEdges(o disk.Options, own, block uint32) (err error) {
	unit := o.MinUnit
	if o.Direct {
		var direct uint32
		p.reach, direct = disk.ReachOf(p.f)
		unit = max(unit, direct)
	}
	n, err := p.reach.SetUnit(unit, block)
	if err != nil {
		return err
	}
	p.whole = n
	if own > block { // through the page cache, too, a device clears its own blocks only
		p.whole = max(n, int64(own))
	}
	if n == 0 {
		return nil
	}
	if p.syncs == nil && !o.LookOnly { // a disk that is only read has its end to be read, too
		if p.syncs, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.fd), os.O_RDONLY, 0); err != nil {
			return fmt.Errorf("open it once more, for the page cache (this needs /proc to be mounted): %w", err)
		}
		p.syncFD = int(p.syncs.Fd())
	}
	p.edges = &disk.Edged{Unit: n, File: p.syncFD, Ragged: func() int64 { return int64(p.capacity.Load()) << disk.SectorShift }}
	return nil
}

// move starts the read or write in r.io.
func (p *Disk) move(r *request) {
	if p.edges != nil && !p.edges.Begin(r.Request) {
		r.after, r.step = r.step, stepSpan
		return
	}
	p.start(r)
}

// start starts r.io when nothing stands in its way any more.
func (p *Disk) start(r *request) {
	switch {
	case r.IO.Code != engine.Readv && r.IO.Code != engine.Writev:
		r.StartIO()
	case p.edges == nil:
		r.Move(p.reach)
	default:
		r.Move(p.edges.Reach(&r.IO, p.reach))
	}
}

// nextPart is nextRange where only whole blocks of the storage can be cleared: zeroes
// are written to the parts of blocks at either end of a range. A discard leaves them.
func (p *Disk) nextPart(r *request) {
	seg := &r.Ranges[r.rangeNo]
	at := int64(seg.Sector)<<disk.SectorShift + r.at
	end := int64(seg.Sector+uint64(seg.Sectors)) << disk.SectorShift
	part := min(disk.AlignUp(at, p.whole), end) - at // up to the next block
	if part == 0 && end-at < p.whole {
		part = end - at
	}
	if part != 0 && r.Op == disk.OpDiscard {
		r.at += part
		at, part = at+part, 0
		if end-at < p.whole {
			at = end
		}
	}
	if at == end {
		r.rangeNo, r.at = r.rangeNo+1, 0
		p.nextRange(r)
		return
	}
	io := &r.IO
	io.FD, io.Off, r.step = p.fd, at, stepRange
	if part != 0 {
		r.Clip = append(r.Clip[:0], unix.Iovec{Base: &zeroBlock[0], Len: uint64(part)})
		io.Code, io.Len, io.Iov, io.Dsync = engine.Writev, part, r.Clip, false
		p.move(r)
		return
	}
	io.Len = (end - at) &^ (p.whole - 1)
	io.Code = engine.ZeroRange
	if r.Op == disk.OpDiscard || seg.Unmap {
		io.Code = engine.PunchHole
	}
	p.move(r)
}

// zeroBlock is as many zeroes as the largest block of a storage has.
var zeroBlock [disk.BounceBytes]byte

// discardGranularity is what of a file or device can be given back, in bytes; 0 when
// nothing can.
func discardGranularity(f *os.File) uint32 {
	st, err := f.Stat()
	if err != nil || st.Mode()&os.ModeDevice == 0 {
		var fs unix.Statfs_t
		if err != nil || unix.Fstatfs(int(f.Fd()), &fs) != nil {
			return disk.PageBytes
		}
		return sensibleGranularity(uint64(fs.Frsize))
	}
	q := disk.LimitsOf(f)
	n := q.Get("discard_granularity", disk.PageBytes) // older than sysfs has it, or no sysfs: it may
	if n == 0 || q.Get("discard_max_hw_bytes", 1) == 0 {
		return 0
	}
	return sensibleGranularity(n)
}

// sensibleGranularity is n, if a disk can have that: a power of two of sectors.
func sensibleGranularity(n uint64) uint32 {
	if n < disk.SectorSize || n > 1<<30 || bits.OnesCount64(n) != 1 {
		return disk.PageBytes
	}
	return uint32(n)
}
