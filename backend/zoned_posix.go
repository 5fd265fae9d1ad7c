package backend

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// zoned is a host-managed zoned disk over an image file.
//
// A write is admitted under its zone's lock: it gets its address there, and
// joins the zone's list of writes in flight. The data then moves without any
// lock, in parallel with other writes of the zone. When it has landed the lock
// is taken once more, to move the write pointer that guests see.
type zoned struct {
	img    *image
	zinfo  Info
	shift  int    // log2 of the zone size in sectors
	conv   uint64 // sectors of conventional zones, from the start of the disk
	align  uint64 // sectors of a logical block, less one
	append uint64 // append limit, bytes
	zones  []zone
	com    *committer // nil on a read-only image

	// broken is set when the live table could not be stored: no write is
	// promised after that.
	broken atomic.Bool

	res struct {
		mu sync.Mutex // guards all of res; taken with a zone's lock held
		resources
		// The implicitly open zones, oldest first, as indices into zones + 1.
		oldest, newest int32
	}
}

// A zone is one sequential zone at work. Sectors are counted from its start.
type zone struct {
	// word is the table entry that guests and readers see. It is stored with mu
	// held and loaded without.
	word atomic.Uint64

	mu    sync.Mutex // guards what follows; never held across I/O
	state ZoneState
	gated bool // reset, and its old data not gone yet: writes wait
	stuck bool // the old data could not be made to go away; the next write tries again
	watch bool // the committer waits for writes in flight
	// next is where the next admitted write goes, done the highest end of a
	// write that has landed.
	next, done uint64
	// The writes in flight, in the order of their addresses.
	flyHead, flyTail *Request
	wait             reqList // who waits for its turn, first come first served

	older, newer int32 // list of implicitly open zones, guarded by res.mu
}

// openZoned opens a zoned image as a disk.
func openZoned(path string, readOnly bool) (*zoned, error) {
	img, err := openImage(path, readOnly)
	if err != nil {
		return nil, err
	}
	d := &zoned{
		img:    img,
		zinfo:  img.info(readOnly),
		shift:  bits.TrailingZeros64(img.ZoneSectors),
		conv:   uint64(img.ConventionalZones) * img.ZoneSectors,
		align:  uint64(img.BlockSize)>>SectorShift - 1,
		append: uint64(img.MaxAppendSectors) << SectorShift,
		zones:  make([]zone, img.Zones()),
	}
	d.res.resources = resources{maxOpen: img.MaxOpen, maxActive: img.MaxActive}
	for i := range d.zones {
		z, w := &d.zones[i], img.words[i]
		z.state, z.next, z.done = w.state(), w.written(), w.written()
		z.word.Store(uint64(w))
		if err := d.res.move(Empty, z.state); err != nil {
			return nil, errors.Join(fmt.Errorf("image %s: zone %d is %v, but there are %w; run 'zvhost check'", path, i, z.state, err), img.release())
		}
		if z.state == ImpOpen {
			d.enlist(i)
		}
	}
	img.words = nil
	if !readOnly {
		d.com = newCommitter(d)
	}
	return d, nil
}

// Info implements Disk.
func (d *zoned) Info() Info { return d.zinfo }

// ReportZone implements Disk.
func (d *zoned) ReportZone(i int) Zone { return d.img.zone(i, word(d.zones[i].word.Load())) }

// Close implements Disk.
func (d *zoned) Close() error {
	if d.com == nil {
		return d.img.close()
	}
	d.com.stop()
	err := d.com.commitAll() // the committer is gone: its state is ours
	if err == nil && d.broken.Load() {
		err = errTable
	}
	if err != nil {
		return errors.Join(fmt.Errorf("image %s: it stays marked as in use: %w", d.img.path, err), d.img.release())
	}
	return d.img.close()
}

// errTable is what a write gets when its zone's entry could not be stored.
var errTable = fmt.Errorf("%w: the zone table cannot be written", ErrIO)

// submit implements Disk.
func (d *zoned) submit(r *Request) {
	switch r.Op {
	case OpRead:
		d.read(r)
	case OpWrite, OpAppend:
		d.write(r)
	case OpFlush:
		if d.com == nil {
			r.lane.finish(r, nil)
			return
		}
		d.com.flush(r)
	case OpOpen, OpClose, OpFinish, OpReset:
		d.manage(r)
	case OpResetAll:
		if d.img.readOnly {
			d.fail(r, ErrReadOnly)
			return
		}
		d.resetFrom(r, d.img.ConventionalZones)
	default:
		d.fail(r, ErrUnsupported)
	}
}

// ioDone implements Disk.
func (d *zoned) ioDone(r *Request) {
	switch r.step {
	case stepRead:
		d.end(r, r.io.Err)
	case stepWrite:
		d.wrote(r)
	case stepScrub:
		if r.io.Err == unix.EOPNOTSUPP && r.io.Code == engine.PunchHole {
			r.io.Code = engine.ZeroRange
			r.lane.eng.Queue(&r.io)
			return
		}
		d.landed(r)
	case stepIssue:
		d.issue(r)
	case stepResetAll:
		d.resetFrom(r, int(r.zone)+1)
	default:
		r.lane.finish(r, r.Err)
	}
}

// fail ends r, on its lane, with a sentinel.
func (d *zoned) fail(r *Request, err error) { r.lane.finish(r, d.errorOf(r, err)) }

// end ends r, on its lane, with the outcome of I/O.
func (d *zoned) end(r *Request, err error) {
	if err != nil {
		err = d.errorOf(r, fmt.Errorf("%w: %w", ErrIO, err))
	}
	r.lane.finish(r, err)
}

func (d *zoned) errorOf(r *Request, err error) error {
	return &RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: int(min(r.Sector, d.zinfo.CapacitySectors-1) >> d.shift), Err: err}
}

// read serves what is written from the file and the rest as zeroes, without
// asking the file: what lies there is nobody's business.
func (d *zoned) read(r *Request) {
	sectors := r.Bytes >> SectorShift
	switch {
	case r.Bytes&(SectorSize-1) != 0 || (r.Sector|sectors)&d.align != 0,
		r.Sector > d.zinfo.CapacitySectors || sectors > d.zinfo.CapacitySectors-r.Sector:
		d.fail(r, ErrRange)
		return
	case sectors == 0:
		r.lane.finish(r, nil)
		return
	}
	first, last := int(r.Sector>>d.shift), int((r.Sector+sectors-1)>>d.shift)
	file := r.Bytes
	if r.Sector+sectors > d.conv {
		if first != last {
			d.fail(r, ErrZoneInvalid)
			return
		}
		w := word(d.zones[first].word.Load())
		off := r.Sector & (d.img.ZoneSectors - 1)
		if w.state() == Offline {
			d.fail(r, ErrZoneInvalid)
			return
		}
		file = min(r.Bytes, (max(w.written(), off)-off)<<SectorShift)
	} else {
		for i := first; i <= last; i++ {
			if word(d.zones[i].word.Load()).state() == Offline {
				d.fail(r, ErrZoneInvalid)
				return
			}
		}
	}
	iov := r.Iov
	if file < r.Bytes {
		if err := zeroFrom(r.Iov, file); err != nil || file == 0 {
			d.end(r, err)
			return
		}
		r.clip = clipIovecs(r.clip[:0], r.Iov, file)
		iov = r.clip
	}
	r.step = stepRead
	r.io.Code, r.io.FD, r.io.Dsync = engine.Readv, int(d.img.f.Fd()), false
	r.io.Off, r.io.Len, r.io.Iov = d.img.offset(r.Sector), int64(file), iov
	r.lane.eng.Queue(&r.io)
}

// write checks what can be checked without the zone, and admits.
func (d *zoned) write(r *Request) {
	sectors := r.Bytes >> SectorShift
	i := int(r.Sector >> d.shift)
	off := r.Sector & (d.img.ZoneSectors - 1)
	switch {
	case d.img.readOnly:
		d.fail(r, ErrReadOnly)
		return
	case r.Bytes&(SectorSize-1) != 0,
		r.Sector >= d.zinfo.CapacitySectors || sectors > d.zinfo.CapacitySectors-r.Sector && r.Op == OpWrite:
		d.fail(r, ErrRange)
		return
	case d.broken.Load():
		d.fail(r, errTable)
		return
	}
	r.zone, r.end = int32(i), off+sectors
	if r.Sector < d.conv {
		d.writeConventional(r, sectors)
		return
	}
	switch {
	case r.Op == OpAppend && (off != 0 || r.Bytes > d.append):
		d.fail(r, ErrZoneInvalid)
		return
	case off+sectors > d.img.length(i):
		d.fail(r, ErrZoneInvalid)
		return
	case sectors&d.align != 0:
		d.fail(r, ErrUnalignedWP)
		return
	}
	z := &d.zones[i]
	z.mu.Lock()
	if z.gated || z.wait.head != nil {
		d.queue(z, r)
		z.mu.Unlock()
		return
	}
	err := d.admit(z, r)
	z.mu.Unlock()
	if err != nil {
		d.fail(r, err)
		return
	}
	d.issue(r)
}

func (d *zoned) writeConventional(r *Request, sectors uint64) {
	switch {
	case r.Op == OpAppend || r.Sector+sectors > d.conv:
		d.fail(r, ErrZoneInvalid)
		return
	case (r.Sector|sectors)&d.align != 0:
		d.fail(r, ErrRange)
		return
	case sectors == 0:
		r.lane.finish(r, nil)
		return
	}
	for i := int(r.zone); uint64(i) <= (r.Sector+sectors-1)>>d.shift; i++ {
		if s := word(d.zones[i].word.Load()).state(); s != NotWP {
			d.fail(r, ErrZoneInvalid)
			return
		}
	}
	r.step = stepRead // nothing but its outcome is left, as for a read
	r.io.Code, r.io.FD, r.io.Dsync = engine.Writev, int(d.img.f.Fd()), r.Stable
	r.io.Off, r.io.Len, r.io.Iov = d.img.offset(r.Sector), int64(r.Bytes), r.Iov
	r.lane.eng.Queue(&r.io)
}

// admit gives r its address in zone z, whose lock is held, and puts it among
// the writes in flight; or says why not, with nothing changed.
func (d *zoned) admit(z *zone, r *Request) error {
	i := int(r.zone)
	sectors := r.Bytes >> SectorShift
	from := z.next
	if r.Op == OpWrite {
		from = r.Sector & (d.img.ZoneSectors - 1)
	}
	to, err := transition(z.state, evWrite, z.next != 0)
	switch {
	case err != nil:
		return err
	case from != z.next:
		return ErrUnalignedWP
	case sectors > d.img.capacity(i)-from:
		return ErrZoneInvalid
	case sectors == 0:
		r.from, r.end = from, from
		return nil
	}
	if err := d.enter(z, i, to); err != nil {
		return err
	}
	r.from, r.end = from, from+sectors
	z.next = r.end
	r.flyPrev, r.flyNext = z.flyTail, nil
	if z.flyTail == nil {
		z.flyHead = r
	} else {
		z.flyTail.flyNext = r
	}
	z.flyTail = r
	return nil
}

// issue starts the I/O of an admitted write, on its own lane.
func (d *zoned) issue(r *Request) {
	start := uint64(r.zone) << d.shift
	if r.Op == OpAppend {
		r.AppendSector = start + r.from
	}
	if r.Bytes == 0 {
		r.lane.finish(r, nil)
		return
	}
	r.step = stepWrite
	r.io.Code, r.io.FD, r.io.Dsync = engine.Writev, int(d.img.f.Fd()), false
	r.io.Off, r.io.Len, r.io.Iov = d.img.offset(start+r.from), int64(r.Bytes), r.Iov
	r.lane.eng.Queue(&r.io)
}

// wrote goes on when the data of a write has been moved, or not. A write that
// failed may have left a part of it; later writes of the zone may have landed
// behind it already, so it cannot be taken back. Zeroes are put in its place,
// so that no guest ever reads half of a write that failed.
func (d *zoned) wrote(r *Request) {
	if r.io.Err == nil {
		r.Err = nil
		d.landed(r)
		return
	}
	r.Err = d.errorOf(r, fmt.Errorf("%w: %w", ErrIO, r.io.Err))
	r.step = stepScrub
	r.io.Code, r.io.Iov = engine.PunchHole, nil
	r.lane.eng.Queue(&r.io)
}

// landed takes r out of the writes in flight and moves the write pointer that
// guests see.
func (d *zoned) landed(r *Request) {
	i := int(r.zone)
	z := &d.zones[i]
	z.mu.Lock()
	if r.flyPrev == nil {
		z.flyHead = r.flyNext
	} else {
		r.flyPrev.flyNext = r.flyNext
	}
	if r.flyNext == nil {
		z.flyTail = r.flyPrev
	} else {
		r.flyNext.flyPrev = r.flyPrev
	}
	r.flyPrev, r.flyNext = nil, nil
	if r.Err == nil {
		z.done = max(z.done, r.end)
	}
	if z.flyHead == nil {
		d.settled(z, i)
	}
	if !d.publish(z, i) && r.Err == nil {
		r.Err = d.errorOf(r, errTable)
	}
	if z.watch {
		z.watch = false
		select {
		case d.com.landed <- struct{}{}:
		default: // it is poked already
		}
	}
	if z.wait.head != nil {
		d.serve(z, i)
	}
	z.mu.Unlock()
	if r.Err == nil && r.Stable {
		d.com.flush(r)
		return
	}
	r.lane.finish(r, r.Err)
}

// settled adjusts zone z, whose lock is held, once no write is in flight any
// more: what failed at its end gives its address back.
func (d *zoned) settled(z *zone, i int) {
	z.next = z.done
	to := z.state
	switch {
	case z.done == d.img.capacity(i):
		if full, err := transition(z.state, evFilled, true); err == nil {
			to = full
		}
	case z.done == 0 && (z.state == ImpOpen || z.state == Closed):
		to = Empty // no write was successful, so it was never opened
	}
	_ = d.enter(z, i, to) // never takes a resource, so it cannot fail
}

// publish makes z's state, whose lock is held, what guests see, what a kill -9
// leaves, and what the next commit makes durable. It reports false when the
// table cannot be stored.
func (d *zoned) publish(z *zone, i int) bool {
	w := pack(i, z.state, z.done)
	if w == word(z.word.Load()) {
		return true
	}
	if !d.img.storeLive(i, w) {
		d.broken.Store(true)
		return false
	}
	z.word.Store(uint64(w))
	d.com.mark(i)
	return true
}

// settle waits until the writes that are in flight in zone i now have landed,
// and returns the entry that covers them and nothing that has not landed. It is
// the committer's.
func (d *zoned) settle(i int) word {
	z := &d.zones[i]
	z.mu.Lock()
	target := z.next
	// A reset waits for the zone's writes, so an empty list means that those
	// have landed even when addresses start again from below.
	for z.flyHead != nil && z.flyHead.from < target && z.next >= target {
		z.watch = true
		z.mu.Unlock()
		<-d.com.landed
		z.mu.Lock()
	}
	written := z.done
	if z.flyHead != nil {
		written = min(written, z.flyHead.from)
	}
	w := pack(i, z.state, written)
	z.mu.Unlock()
	return w
}

// zeroFrom fills iov with zeroes from byte n on. It fails with EFAULT, as a
// system call would, when the front-end has taken the memory away; the caller's
// goroutine has debug.SetPanicOnFault on.
func zeroFrom(iov []unix.Iovec, n uint64) (err error) {
	defer func() {
		if recover() != nil {
			err = unix.EFAULT
		}
	}()
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
