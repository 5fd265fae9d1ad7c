package backend

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/failpoint"
)

// write checks what can be checked without the zone, and admits.
func (d *zoned) write(r *zonedRequest) {
	i, err := d.rules.Write(d, r.Request)
	r.zone = int32(i)
	switch {
	case err != nil:
		d.fail(r, err)
		return
	case d.broken.Load():
		d.fail(r, errTable)
		return
	case d.Conventional(i):
		d.writeConventional(r)
		return
	}
	z := &d.zones[r.zone]
	z.mu.Lock()
	if z.gate.closed || z.wait.Head != nil {
		d.queueLocked(z, r)
		z.mu.Unlock()
		return
	}
	err = d.admitLocked(z, r)
	z.mu.Unlock()
	if err != nil {
		d.fail(r, err)
		return
	}
	d.issue(r)
}

func (d *zoned) writeConventional(r *zonedRequest) {
	if r.Bytes == 0 {
		r.Finish(nil)
		return
	}
	r.step = zonedMoved
	r.IO.Code, r.IO.FD = engine.Writev, d.img.DataFD
	r.Through(d.img.Direct != nil)
	r.IO.Off, r.IO.Len, r.IO.Iov = d.img.Offset(r.Sector), int64(r.Bytes), r.Iov
	if d.faults.Strike(r.Request, r.Sector, r.Bytes>>disk.SectorShift) && !r.CutShort() {
		d.end(r, nil)
		return
	}
	d.move(r)
}

// move starts the I/O of r, whole blocks of the image. What of it is no whole block of
// the storage is in a block that may hold the end of another write, and the beginning
// of a third one. Each of them waits for the one that has the block, reads it, and
// writes it with its own part in place. So all else in it is written as it stands there
// already: a power cut, which leaves each sector of the block old or new, takes nothing
// from what was flushed, and shows nothing that was not written.
func (d *zoned) move(r *zonedRequest) {
	switch {
	case d.edges == nil:
		r.Move(d.img.Reach)
	case d.edges.Begin(r.Request):
		r.Move(d.edges.Reach(&r.IO, d.img.Reach))
	default:
		r.after, r.step = r.step, zonedSpan
	}
}

// issue starts the I/O of an admitted write, on its own lane.
func (d *zoned) issue(r *zonedRequest) {
	start := uint64(r.zone) << d.shift
	if r.Op == disk.OpAppend {
		r.AppendSector = start + r.from
	}
	if r.Bytes == 0 {
		r.Finish(nil)
		return
	}
	r.step = zonedWrote
	r.IO.Code, r.IO.FD, r.IO.Dsync = engine.Writev, d.img.DataFD, false
	r.IO.Off, r.IO.Len, r.IO.Iov = d.img.Offset(start+r.from), int64(r.Bytes), r.Iov
	if d.faults.Strike(r.Request, start+r.from, r.end-r.from) && !r.CutShort() {
		d.wrote(r)
		return
	}
	d.move(r)
}

// wrote goes on when the data of a write has been moved, or not. A write that
// failed may have left a part of it; later writes of the zone may have landed
// behind it already, so it cannot be taken back. Zeroes are put in its place,
// so that no guest ever reads half of a write that failed.
func (d *zoned) wrote(r *zonedRequest) {
	switch {
	case r.Fault != nil && r.Fault.Err != nil:
		d.spoilt(r)
		return
	case r.IO.Err == nil:
		r.Err = nil
		d.landed(r)
		return
	}
	r.Err = d.errorOf(r, fmt.Errorf("%w: %w", disk.ErrIO, r.IO.Err))
	d.scrub(r, r.IO.Off, r.IO.Len)
}

// spoilt goes on when a fault has made a write fail, with what it lets land on
// the disk. That stays, as it does on a drive that fails in the middle; the rest
// is any failed write's.
func (d *zoned) spoilt(r *zonedRequest) {
	if r.Fault.Good > 0 && r.IO.Err != nil {
		r.Fault.Good = 0 // and then it failed indeed
	}
	r.Err = d.errorOf(r, r.Fault.Err)
	d.scrub(r, d.img.Offset(uint64(r.zone)<<d.shift+r.from+r.Fault.Good), int64(r.Bytes-r.Fault.Good<<disk.SectorShift))
}

// landed takes r out of the writes in flight and moves the write pointer that
// guests see.
func (d *zoned) landed(r *zonedRequest) {
	d.leave(r)
	d.done(r, r.Err)
}

// leave is landed but for the end of r.
func (d *zoned) leave(r *zonedRequest) {
	if d.edges != nil {
		d.edges.End(r.Request)
	}
	i := int(r.zone)
	z := &d.zones[i]
	z.mu.Lock()
	z.flying.removeLocked(r)
	switch {
	case r.Err == nil:
		z.done = max(z.done, r.end)
	case r.Fault != nil && r.Fault.Good > 0:
		z.done = max(z.done, r.from+r.Fault.Good)
	}
	if r.soiled {
		r.soiled = false
		z.gate.soilLocked(r.end)
	}
	if z.flying.emptyLocked() {
		d.settledLocked(z, i)
	}
	if !d.publishLocked(z, i) && r.Err == nil {
		r.Err = d.errorOf(r, errTable)
	}
	failpoint.Hit(failpoint.Table)
	// Before anybody else can reset the zone, or take the address.
	if r.Err == nil {
		r.Note.Done(uint64(i)<<d.shift + r.from)
	} else {
		r.Note.Failed()
	}
	failpoint.Hit(failpoint.Landed)
	if z.watch {
		z.watch = false
		select {
		case d.com.landed <- struct{}{}:
		default: // it is poked already
		}
	}
	if z.wait.Head != nil {
		d.serveLocked(z, i)
	}
	z.mu.Unlock()
}

// settledLocked adjusts zone z, whose lock is held, once no write is in flight any
// more: what failed at its end gives its address back.
func (d *zoned) settledLocked(z *seqZone, i int) {
	z.next = z.done
	z.gate.settleLocked(z.done)
	to := z.state
	switch {
	case z.done == d.img.Capacity(i):
		if full, err := zone.Transition(z.state, zone.OnFilled, true); err == nil {
			to = full
		}
	case z.done == 0 && (z.state == zone.ImpOpen || z.state == zone.Closed):
		to = zone.Empty // no write was successful, so it was never opened
	}
	_ = d.enterLocked(z, i, to) // never takes a resource, so it cannot fail
}

// settle waits until the writes that are in flight in zone i now have landed,
// and returns the entry that covers them and nothing that has not landed. It is
// the committer's.
func (d *zoned) settle(i int) zone.Entry {
	z := &d.zones[i]
	z.mu.Lock()
	// Counted by their admission numbers and not by their address: where writes fail, others
	// take their address, for as long as they are sent.
	last := z.admitted
	for !z.flying.emptyLocked() && z.flying.head.admission <= last {
		z.watch = true
		z.mu.Unlock()
		<-d.com.landed
		z.mu.Lock()
	}
	written := z.done
	if !z.flying.emptyLocked() {
		written = min(written, z.flying.head.from)
	}
	w := zone.Pack(i, z.state, written)
	z.mu.Unlock()
	return w
}

// scrubbed goes on when that is done, or not.
func (d *zoned) scrubbed(r *zonedRequest) {
	if r.IO.Err != nil && r.IO.Code == engine.PunchHole { // there are no holes, or not now
		r.IO.Code = engine.ZeroRange
		r.StartIO()
		return
	}
	r.soiled = r.IO.Err != nil
	d.landed(r)
}
