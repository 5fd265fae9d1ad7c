package backend

import (
	"runtime/debug"
	"slices"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/failpoint"
)

// This file finishes what another daemon had begun on a zoned image when it
// died, from the notes that it left (disk/note.go).
//
// An address that was given is claimed: a request without an owner stands for it
// in the zone's list of writes in flight, so that nobody else is given it, no
// reset overtakes it, and a flush waits for it. When the request itself comes, it
// takes that place and is written anew, in full. docs/restart.md has the
// argument.

// User implements disk.Resumer.
func (d *zoned) User() uint64 { return d.img.Run() }

// Renew implements disk.Resumer.
func (d *zoned) Renew() error { return d.img.Renew() }

// Begin implements disk.Resumer.
func (d *zoned) Begin() error { return d.img.Begin() }

// Unclean implements disk.Resumer.
func (d *zoned) Unclean() bool { return d.img.Unclean }

// LeaveUnclean implements disk.Resumer.
func (d *zoned) LeaveUnclean() { d.img.LeaveUnclean = true }

// Reserve implements disk.Resumer.
func (d *zoned) Reserve(claims []disk.Reservation) {
	in, after := -1, (*zonedRequest)(nil)
	for _, c := range claims {
		i := int(c.Was.Sector >> d.shift)
		r := zonedOf(&disk.Request{Op: disk.OpWrite, Sector: c.Was.Sector, Bytes: c.Was.Sectors << disk.SectorShift, Note: c.Of})
		r.zone = int32(i)
		r.from = d.rules.Offset(c.Was.Sector)
		r.end = r.from + c.Was.Sectors
		if c.Was.Sectors > d.img.ZoneSectors || !d.claimable(r) {
			c.Of.Failed()
			continue
		}
		if i != in {
			in, after = i, nil
		}
		z := &d.zones[i]
		z.mu.Lock()
		ok := d.joinLocked(z, i, r, &after)
		z.mu.Unlock()
		if !ok {
			c.Of.Failed()
			continue
		}
		d.claims.mu.Lock()
		if d.claims.of == nil {
			d.claims.of = map[*disk.Note]*zonedRequest{}
		}
		d.claims.of[c.Of] = r
		d.claims.mu.Unlock()
		failpoint.Hit(failpoint.Claimed)
	}
}

// claimable says whether r can have been admitted once. A note may stand in
// memory that a front-end can write to.
func (d *zoned) claimable(r *zonedRequest) bool {
	i := int(r.zone)
	return !d.img.ReadOnly && d.img.Resumable &&
		r.Sector < d.zinfo.CapacitySectors && !d.Conventional(i) &&
		r.Bytes > 0 && r.end <= d.img.Capacity(i) &&
		d.rules.Whole(r.Bytes) && d.rules.Whole(r.from<<disk.SectorShift)
}

// joinLocked puts r among the writes in flight of zone z, whose lock is held, in the
// order of the addresses. It fails where the zone cannot have such a write. after is
// one that is before r, nil for the beginning, and becomes the last that is.
func (d *zoned) joinLocked(z *seqZone, i int, r *zonedRequest, after **zonedRequest) bool {
	switch z.state {
	case zone.ReadOnly, zone.Offline:
		return false
	case zone.Full:
		// zone.Full by its last write, with earlier ones in flight: docs/image-format.md.
		if r.end > z.done {
			return false
		}
	case zone.Empty:
		// It was opened by this write or its neighbours, and recovery, which knows
		// nothing of them, has put it back. Nobody has closed it since: a close would
		// have waited. It had an active place when it died, and
		// so has one now; the place of an open one it may have lost since.
		if d.enterLocked(z, i, zone.ImpOpen) != nil && d.enterLocked(z, i, zone.Closed) != nil {
			return false
		}
	}
	prev, next := *after, z.flying.head
	if prev != nil {
		next = prev.next
	}
	for ; next != nil && next.from <= r.from; next = next.next {
		prev = next
		d.claims.steps++
	}
	*after = prev
	if prev != nil && prev.end > r.from || next != nil && next.from < r.end {
		return false // two at one place: nobody admitted that
	}
	z.flying.insertLocked(prev, r)
	*after = r
	z.next = max(z.next, r.end)
	z.admitted++
	r.admission = z.admitted
	return true
}

// Emptied implements disk.Resumer. A note may stand in memory that a front-end can write to.
func (d *zoned) Emptied(m *disk.Note, sector uint64) {
	if sector < d.zinfo.CapacitySectors && d.rules.Offset(sector) == 0 && d.Entry(int(sector>>d.shift)).State() == zone.Empty {
		m.Managed(disk.OpClose, int(sector>>d.shift)) // others may open it before the close comes
		return
	}
	m.Clear()
}

// Changed implements disk.Resumer. The zone is as the daemon that died has left it: one
// store into the live table changes it, with its lock held. A note may stand in memory that
// a front-end can write to.
func (d *zoned) Changed(m *disk.Note, was disk.Noted) {
	state := zone.NotWP
	if was.Zone < len(d.zones) && !d.Conventional(was.Zone) {
		state = d.Entry(was.Zone).State()
	}
	switch {
	case was.What == disk.NotedChangingOneOf && state == zone.Empty:
		m.Past(was.Seg, was.Zone)
	case was.What == disk.NotedChangingOneOf: // it goes on with this zone
	case state != zone.NotWP && state == leaves[was.Op()]:
		m.Managed(was.Op(), was.Zone)
	default:
		m.Clear()
	}
}

// leaves is the state of a zone that was changed by an operation noted as NotedChanging.
var leaves = map[disk.Op]zone.State{
	disk.OpOpen: zone.ExpOpen, disk.OpClose: zone.Closed, disk.OpFinish: zone.Full, disk.OpReset: zone.Empty,
}

// claimed takes back what was claimed for m; nil when nothing was.
func (d *zoned) claimed(m *disk.Note) *zonedRequest {
	d.claims.mu.Lock()
	defer d.claims.mu.Unlock()
	r := d.claims.of[m]
	delete(d.claims.of, m)
	return r
}

// Disown implements disk.Resumer.
func (d *zoned) Disown(m *disk.Note) {
	if r := d.claimed(m); r != nil {
		d.giveUp(r)
	}
}

// Unclaim implements disk.Resumer. What was written there is cleared, for the image may be
// closed in good order.
func (d *zoned) Unclaim(m *disk.Note) {
	if r := d.claimed(m); r != nil {
		r.Note = nil
		d.giveUp(r)
	}
}

// giveUp ends what was claimed without anybody who writes it, as a write that
// failed.
func (d *zoned) giveUp(r *zonedRequest) {
	off, n := d.img.Offset(uint64(r.zone)<<d.shift+r.from), int64(r.Bytes)
	r.Err = d.errorOf(r, disk.ErrIO)
	if e := d.edges; e != nil {
		s := e.Spans.Try(off&^(e.Unit-1), disk.AlignUp(off+n, e.Unit))
		if s == nil {
			// Its neighbour's I/O may end on the caller's own lane. Until then the write
			// that is given up stands among those in flight, so a flush waits for it.
			d.givingUp.Go(func() {
				defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // LiveTable.Store
				r.soiled = d.wipe(off, n) != nil
				d.leave(r)
			})
			return
		}
		defer e.Spans.Release(s)
	}
	r.soiled = d.img.Store.Wipe(off, n) != nil
	d.leave(r)
}

// leaveClaims takes back what nobody has come for before the disk is closed. The notes
// stay as they are: whoever goes on with the session claims it again.
func (d *zoned) leaveClaims() {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // LiveTable.Store of an image
	d.claims.mu.Lock()
	defer d.claims.mu.Unlock()
	for _, r := range d.claims.of {
		r.Note = nil
		d.giveUp(r)
	}
	d.claims.of = nil
}

// Resume implements disk.Resumer.
func (d *zoned) Resume(q *disk.Request) {
	r := zonedOf(q)
	failpoint.Hit(failpoint.Readmitted)
	switch was := r.Note.Load(); was.What {
	case disk.NotedAddress:
		d.readmit(r, was)
	case disk.NotedDone:
		d.wasDone(r, was)
	case disk.NotedZones, disk.NotedChangingOneOf:
		d.goOn(r, was)
	default:
		d.fail(r, disk.ErrIO)
	}
}

// wasDone answers r, which another daemon was done with.
func (d *zoned) wasDone(r *zonedRequest, was disk.Noted) {
	switch {
	case !was.Agrees(&d.rules, d, r.Request):
		d.fail(r, disk.ErrIO)
	case (r.Op == disk.OpWrite || r.Op == disk.OpAppend) && !d.img.Resumable && !d.covers(r, was):
		d.fail(r, disk.ErrIO) // what the live table said of it was lost
	case r.Stable && d.img.ReadOnly: // it may not be durable, and will not be made so here
		d.fail(r, disk.ErrReadOnly)
	default:
		r.AppendSector = was.Sector
		d.done(r, nil)
	}
}

// covers says whether the data of r, a write, is below the write pointer.
func (d *zoned) covers(r *zonedRequest, was disk.Noted) bool {
	w := d.Entry(int(r.Sector >> d.shift))
	return w.State() != zone.Offline && d.rules.Offset(was.Sector)+was.Sectors <= w.Written()
}

// readmit lets r, a write with an address, take the place that was claimed for it.
func (d *zoned) readmit(r *zonedRequest, was disk.Noted) {
	c := d.claimed(r.Note)
	if c == nil { // it was refused
		d.fail(r, disk.ErrIO)
		return
	}
	i, err := d.rules.Write(d, r.Request)
	r.zone = c.zone
	start := uint64(c.zone) << d.shift
	same := err == nil && i == int(c.zone) && r.Bytes == c.Bytes &&
		(r.Op == disk.OpAppend || r.Op == disk.OpWrite && r.Sector == start+c.from)
	if !same { // not the request that it was: the guest has changed it in flight
		d.giveUp(c)
		d.fail(r, disk.ErrIO)
		return
	}
	z := &d.zones[c.zone]
	z.mu.Lock()
	r.from, r.end, r.admission = c.from, c.end, c.admission
	z.flying.replaceLocked(c, r)
	z.mu.Unlock()
	if d.broken.Load() {
		r.Err = d.errorOf(r, errTable)
		d.landed(r)
		return
	}
	d.issue(r)
}

// goOn goes on with a request that goes over zones, behind those that it is done
// with. Which of those have been written since the mark does not say.
func (d *zoned) goOn(r *zonedRequest, was disk.Noted) {
	switch {
	case d.img.ReadOnly:
		d.fail(r, disk.ErrReadOnly)
	case r.Op == disk.OpResetAll && was.Seg == 0 && within(&was, d.img.ConventionalZones, len(d.zones)):
		d.resetFrom(r, was.Zone)
	case r.Op == disk.OpSecureErase && d.erasedPast(r, was):
		r.rangeNo = was.Seg
		d.eraseFrom(r, was.Zone)
	default:
		d.fail(r, disk.ErrIO)
	}
}

// within says whether was can be the note of a request that goes over zones [from, to): it
// is behind one of them, or about to change one.
func within(was *disk.Noted, from, to int) bool {
	if was.What == disk.NotedChangingOneOf {
		return was.Zone >= from && was.Zone < to
	}
	return was.Zone > from && was.Zone <= to
}

// erasedPast says whether was can be the note of r, a secure erase: it is behind a zone of
// the range that it names, or at one.
func (d *zoned) erasedPast(r *zonedRequest, was disk.Noted) bool {
	if int(was.Seg) >= len(r.Ranges) || slices.ContainsFunc(r.Ranges, func(s disk.Range) bool { return d.erasable(s.Sector, uint64(s.Sectors)) != nil }) {
		return false
	}
	from, to := d.erased(&r.Ranges[was.Seg])
	return within(&was, from, to)
}
