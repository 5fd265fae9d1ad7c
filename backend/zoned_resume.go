package backend

import (
	"encoding/binary"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/failpoint"
)

// This file finishes what another daemon had begun on a zoned image when it
// died, from the marks that it left (mark.go).
//
// An address that was given is claimed: a request without an owner stands for it
// in the zone's list of writes in flight, so that nobody else is given it, no
// reset overtakes it, and a flush waits for it. When the request itself comes, it
// takes that place and is written anew, in full. docs/restart.md has the
// argument.

// user implements marker.
func (d *zoned) user() uint64 { return d.img.run() }

// renew implements marker.
func (d *zoned) renew() error { return d.img.renew() }

// begin implements marker.
func (d *zoned) begin() error { return d.img.begin() }

// unclean implements marker.
func (d *zoned) unclean() bool { return d.img.unclean }

// leaveUnclean implements marker.
func (d *zoned) leaveUnclean() { d.img.leaveUnclean = true }

// run is the number of the image's user, made different from other images', and
// never 0.
func (img *image) run() uint64 {
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	return img.user()
}

// user is run with img.stateMu held. It begins anew behind the last number: only
// whether two are the same counts. 0, which says that there is none, is passed over.
func (img *image) user() uint64 { return binary.LittleEndian.Uint64(img.uuid[:]) ^ img.state.run }

// renew counts another user of the image, durably.
func (img *image) renew() error {
	if img.readOnly {
		return nil
	}
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	if img.state.run++; img.user() == 0 {
		img.state.run++
	}
	return img.begun()
}

// begin is Begin.
func (img *image) begin() error {
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	if img.readOnly || !img.state.idle {
		return nil
	}
	return img.begun()
}

// begun notes that requests are in flight from now on. img.stateMu is held.
func (img *image) begun() error {
	was := img.state.idle
	img.state.idle = false
	// Both copies: the older one must not bring back what is not so any more.
	for range 2 {
		if err := img.state.write(img.store, img.uuid); err != nil {
			img.state.idle = was // for who tries again
			if img.sync() != nil {
				_ = img.state.distrust(img.store, img.uuid)
			}
			return fmt.Errorf("image %s: note that somebody else uses it: %w", img.path, err)
		}
	}
	return nil
}

// reserve implements marker.
func (d *zoned) reserve(claims []claim) {
	in, after := -1, (*zonedRequest)(nil)
	for _, c := range claims {
		i := int(c.was.sector >> d.shift)
		r := zonedOf(&Request{Op: OpWrite, Sector: c.was.sector, Bytes: c.was.sectors << SectorShift, Mark: c.of})
		r.zone = int32(i)
		r.from = d.rules.offset(c.was.sector)
		r.end = r.from + c.was.sectors
		if c.was.sectors > d.img.ZoneSectors || !d.claimable(r) {
			c.of.failed()
			continue
		}
		if i != in {
			in, after = i, nil
		}
		z := &d.zones[i]
		z.mu.Lock()
		ok := d.join(z, i, r, &after)
		z.mu.Unlock()
		if !ok {
			c.of.failed()
			continue
		}
		d.claims.mu.Lock()
		if d.claims.of == nil {
			d.claims.of = map[*Mark]*zonedRequest{}
		}
		d.claims.of[c.of] = r
		d.claims.mu.Unlock()
		failpoint.Hit(failpoint.Claimed)
	}
}

// claimable says whether r can have been admitted once. A mark may stand in
// memory that a front-end can write to.
func (d *zoned) claimable(r *zonedRequest) bool {
	i := int(r.zone)
	return !d.img.readOnly && d.img.resumable &&
		r.Sector < d.zinfo.CapacitySectors && !d.conventional(i) &&
		r.Bytes > 0 && r.end <= d.img.Capacity(i) &&
		d.rules.whole(r.Bytes) && d.rules.whole(r.from<<SectorShift)
}

// join puts r among the writes in flight of zone z, whose lock is held, in the
// order of the addresses. It fails where the zone cannot have such a write. after is
// one that is before r, nil for the beginning, and becomes the last that is.
func (d *zoned) join(z *seqZone, i int, r *zonedRequest, after **zonedRequest) bool {
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
		if d.enter(z, i, zone.ImpOpen) != nil && d.enter(z, i, zone.Closed) != nil {
			return false
		}
	}
	prev, next := *after, z.flyHead
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
	r.prev, r.next = prev, next
	if prev == nil {
		z.flyHead = r
	} else {
		prev.next = r
	}
	if next == nil {
		z.flyTail = r
	} else {
		next.prev = r
	}
	*after = r
	z.next = max(z.next, r.end)
	z.turn++
	r.turn = z.turn
	return true
}

// emptied implements marker. A mark may stand in memory that a front-end can write to.
func (d *zoned) emptied(m *Mark, sector uint64) {
	if sector < d.zinfo.CapacitySectors && d.rules.offset(sector) == 0 && d.entry(int(sector>>d.shift)).State() == zone.Empty {
		m.managed(OpClose, int(sector>>d.shift)) // others may open it before the close comes
		return
	}
	m.Clear()
}

// claimed takes back what was claimed for m; nil when nothing was.
func (d *zoned) claimed(m *Mark) *zonedRequest {
	d.claims.mu.Lock()
	defer d.claims.mu.Unlock()
	r := d.claims.of[m]
	delete(d.claims.of, m)
	return r
}

// disown implements marker.
func (d *zoned) disown(m *Mark) {
	if r := d.claimed(m); r != nil {
		d.giveUp(r)
	}
}

// unclaim implements marker. What was written there is cleared, for the image may be
// closed in good order.
func (d *zoned) unclaim(m *Mark) {
	if r := d.claimed(m); r != nil {
		r.Mark = nil
		d.giveUp(r)
	}
}

// giveUp ends what was claimed without anybody who writes it, as a write that
// failed.
func (d *zoned) giveUp(r *zonedRequest) {
	off, n := d.img.offset(uint64(r.zone)<<d.shift+r.from), int64(r.Bytes)
	r.Err = d.errorOf(r, ErrIO)
	if e := d.edges; e != nil {
		s := e.spans.try(off&^(e.unit-1), alignUp(off+n, e.unit))
		if s == nil {
			// Its neighbour's I/O may end on the caller's own lane. Until then the write
			// that is given up stands among those in flight, so a flush waits for it.
			d.givingUp.Go(func() {
				defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // storeLive
				r.soiled = d.wipe(off, n) != nil
				d.leave(r)
			})
			return
		}
		defer e.spans.release(s)
	}
	r.soiled = d.img.store.wipe(off, n) != nil
	d.leave(r)
}

// leaveClaims takes back what nobody has come for before the disk is closed. The marks
// stay as they are: whoever goes on with the session claims it again.
func (d *zoned) leaveClaims() {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // liveTable.store
	d.claims.mu.Lock()
	defer d.claims.mu.Unlock()
	for _, r := range d.claims.of {
		r.Mark = nil
		d.giveUp(r)
	}
	d.claims.of = nil
}

// resume implements marker.
func (d *zoned) resume(q *Request) {
	r := zonedOf(q)
	failpoint.Hit(failpoint.Readmitted)
	switch was := r.Mark.load(); was.what {
	case markAt:
		d.readmit(r, was)
	case markDone:
		d.wasDone(r, was)
	case markPast:
		d.goOn(r, was)
	default:
		d.fail(r, ErrIO)
	}
}

// wasDone answers r, which another daemon was done with.
func (d *zoned) wasDone(r *zonedRequest, was mark) {
	switch {
	case !was.agrees(&d.rules, d, r.Request):
		d.fail(r, ErrIO)
	case (r.Op == OpWrite || r.Op == OpAppend) && !d.img.resumable && !d.covers(r, was):
		d.fail(r, ErrIO) // what the live table said of it was lost
	case r.Stable && d.img.readOnly: // it may not be durable, and will not be made so here
		d.fail(r, ErrReadOnly)
	default:
		r.AppendSector = was.sector
		d.done(r, nil)
	}
}

// covers says whether the data of r, a write, is below the write pointer.
func (d *zoned) covers(r *zonedRequest, was mark) bool {
	w := d.entry(int(r.Sector >> d.shift))
	return w.State() != zone.Offline && d.rules.offset(was.sector)+was.sectors <= w.Written()
}

// readmit lets r, a write with an address, take the place that was claimed for it.
func (d *zoned) readmit(r *zonedRequest, was mark) {
	c := d.claimed(r.Mark)
	if c == nil { // it was refused
		d.fail(r, ErrIO)
		return
	}
	i, err := d.rules.write(d, r.Request)
	r.zone = c.zone
	start := uint64(c.zone) << d.shift
	same := err == nil && i == int(c.zone) && r.Bytes == c.Bytes &&
		(r.Op == OpAppend || r.Op == OpWrite && r.Sector == start+c.from)
	if !same { // not the request that it was: the guest has changed it in flight
		d.giveUp(c)
		d.fail(r, ErrIO)
		return
	}
	z := &d.zones[c.zone]
	z.mu.Lock()
	r.from, r.end, r.turn, r.prev, r.next = c.from, c.end, c.turn, c.prev, c.next
	if r.prev == nil {
		z.flyHead = r
	} else {
		r.prev.next = r
	}
	if r.next == nil {
		z.flyTail = r
	} else {
		r.next.prev = r
	}
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
func (d *zoned) goOn(r *zonedRequest, was mark) {
	switch {
	case d.img.readOnly:
		d.fail(r, ErrReadOnly)
	case r.Op == OpResetAll && was.seg == 0 && was.zone > d.img.ConventionalZones && was.zone <= len(d.zones):
		d.resetFrom(r, was.zone)
	case r.Op == OpSecureErase && d.erasedPast(r, was):
		r.rangeNo = was.seg
		d.eraseFrom(r, was.zone)
	default:
		d.fail(r, ErrIO)
	}
}

// erasedPast says whether was can be the mark of r, a secure erase: it is behind a zone
// of the range that it names.
func (d *zoned) erasedPast(r *zonedRequest, was mark) bool {
	if int(was.seg) >= len(r.Ranges) || slices.ContainsFunc(r.Ranges, func(s Range) bool { return d.erasable(s.Sector, uint64(s.Sectors)) != nil }) {
		return false
	}
	from, to := d.erased(&r.Ranges[was.seg])
	return was.zone > from && was.zone <= to
}
