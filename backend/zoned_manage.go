package backend

import (
	"fmt"
	"runtime"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/failpoint"
)

// manage carries out a zone management request on one zone.
func (d *zoned) manage(r *zonedRequest) {
	if r.Sector >= d.zinfo.CapacitySectors || r.Sector < d.conv || r.Sector&(d.img.ZoneSectors-1) != 0 {
		d.fail(r, zone.ErrInvalid)
		return
	}
	i := int(r.Sector >> d.shift)
	switch {
	case d.img.ReadOnly:
		if err := disk.OnReadOnly(r.Op, d.Entry(i)); err != nil {
			d.fail(r, err)
			return
		}
		r.Finish(nil)
		return
	case d.broken.Load():
		d.fail(r, errTable)
		return
	}
	r.zone = int32(i)
	z := &d.zones[i]
	z.mu.Lock()
	if z.wait.Head != nil || z.hinderLocked(r) {
		d.queueLocked(z, r)
		z.mu.Unlock()
		return
	}
	err := d.changeLocked(z, i, r)
	z.mu.Unlock()
	if err != nil {
		err = d.errorOf(r, err)
	}
	d.done(r, err)
}

// done ends r with err; a good one that has to be stable, once it is.
func (d *zoned) done(r *zonedRequest, err error) {
	if err == nil && r.Stable {
		d.com.flush(r.Request, nil)
		return
	}
	r.Finish(err)
}

// excludesWrites says whether r has to wait for its zone's writes in flight: it
// moves the write pointer that they move.
func (r *zonedRequest) excludesWrites() bool {
	return r.Op == disk.OpFinish || r.Op == disk.OpReset || r.Op == disk.OpResetAll || r.Op == disk.OpSecureErase || r.Op == disk.OpSetState
}

// hinderLocked says whether r, which is not a write, has to wait for writes in flight of
// zone z, whose lock is held. A close has to while none has landed: closed with
// nothing written would be a state that the next daemon cannot tell from empty.
func (z *seqZone) hinderLocked(r *zonedRequest) bool {
	return !z.flying.emptyLocked() && (r.excludesWrites() || r.Op == disk.OpClose && z.done == 0)
}

// changeLocked carries out r, a management request on the one zone z, whose lock is held.
func (d *zoned) changeLocked(z *seqZone, i int, r *zonedRequest) error {
	to, err := zone.Transition(z.state, disk.ZoneEvents[r.Op], z.next != 0)
	if err != nil {
		return err
	}
	if r.Op == disk.OpClose && to == zone.Empty {
		r.Note.Emptying(r.Sector)
	} else {
		r.Note.Changing(r.Op, i)
	}
	if err := d.placeLocked(z, i, to, r.Op == disk.OpReset); err != nil {
		r.Note.Clear()
		return err
	}
	failpoint.Hit(failpoint.Managed)
	r.Note.Managed(r.Op, i)
	return nil
}

// resetOneOfLocked resets zone z, whose lock is held and which has no writes in flight, for r,
// which goes over zones: z is in its range number seg.
func (d *zoned) resetOneOfLocked(z *seqZone, i int, r *zonedRequest, seg uint32) error {
	r.Note.ChangingOneOf(seg, i)
	err := d.applyLocked(z, i, disk.OpReset)
	failpoint.Hit(failpoint.Managed)
	r.Note.Past(seg, i)
	failpoint.Hit(failpoint.Past)
	return err
}

// applyLocked carries out management op on zone z, whose lock is held and which has
// no writes in flight if op excludes them.
func (d *zoned) applyLocked(z *seqZone, i int, op disk.Op) error {
	to, err := zone.Transition(z.state, disk.ZoneEvents[op], z.next != 0)
	if err != nil {
		return err
	}
	return d.placeLocked(z, i, to, op == disk.OpReset)
}

// placeLocked makes to the state of zone z, whose lock is held; with reset, what it
// holds goes away.
func (d *zoned) placeLocked(z *seqZone, i int, to zone.State, reset bool) error {
	clear := false
	if reset {
		clear = zone.Entry(z.word.Load()).Outlasts()
		z.next, z.done = 0, 0 // before enter, which publishes; a reset takes no resource, so enter cannot fail
	}
	if err := d.enterLocked(z, i, to); err != nil {
		return err
	}
	if clear {
		// Until the reset is durable the old data must stay: a power cut may
		// bring the old write pointer back. And until it is gone no write may
		// land. So the guest has its answer now, and the next write waits.
		// A reset that is under way takes this one along: see openGate.
		if !z.gated || z.stuck || z.debris != 0 {
			z.gated, z.stuck, z.debris = true, false, 0
			d.com.reset(i)
		}
	}
	if !d.publishLocked(z, i) {
		return errTable
	}
	return nil
}

// resetFrom carries out a reset-all from zone i on. Where a zone has writes in
// flight it waits there, and goes on when they have landed.
func (d *zoned) resetFrom(r *zonedRequest, i int) {
	for ; i < len(d.zones); i++ {
		z := &d.zones[i]
		switch zone.Entry(z.word.Load()).State() {
		case zone.ReadOnly, zone.Offline:
			continue
		}
		// The entry may say empty while the zone's first writes are in flight.
		z.mu.Lock()
		if z.state == zone.Empty && z.wait.Head == nil {
			r.Note.Past(0, i)
			z.mu.Unlock()
			continue
		}
		if z.wait.Head != nil || !z.flying.emptyLocked() {
			r.zone = int32(i)
			d.queueLocked(z, r)
			z.mu.Unlock()
			return
		}
		err := d.resetOneOfLocked(z, i, r, 0)
		z.mu.Unlock()
		if err != nil && err != zone.ErrInvalid { // a zone that just turned read-only or offline is passed over
			d.fail(r, err)
			return
		}
	}
	d.done(r, nil)
}

// queueLocked makes r wait for its turn at zone z, whose lock is held.
func (d *zoned) queueLocked(z *seqZone, r *zonedRequest) {
	z.wait.Push(r.Request)
	d.unstickLocked(z, int(r.zone))
}

// unstickLocked tries again to make the old data of zone z, whose lock is held, go
// away.
func (d *zoned) unstickLocked(z *seqZone, i int) {
	switch {
	case !z.stuck:
		return
	case z.debris != 0:
		d.com.clear(i)
	default:
		d.com.reset(i)
	}
	z.stuck = false
}

// serveLocked lets those who wait at zone z, whose lock is held, have their turn, as
// far as it has come. Each is admitted here, so that nobody overtakes it, and
// goes on on its own lane.
func (d *zoned) serveLocked(z *seqZone, i int) {
	for q := z.wait.Head; q != nil; q = z.wait.Head {
		r := zonedOf(q)
		var err error
		switch {
		case z.hinderLocked(r):
			return
		case r.Op == disk.OpResetAll:
			r.step = zonedReset
			if err = d.resetOneOfLocked(z, i, r, 0); err == zone.ErrInvalid {
				err = nil
			}
		case r.Op == disk.OpSecureErase:
			r.step = zonedErase
			err = d.resetOneOfLocked(z, i, r, r.rangeNo)
		case r.Op == disk.OpSetState:
			r.step = zonedChanged
			err = d.putLocked(z, i, r.to)
		case r.Op == disk.OpWrite || r.Op == disk.OpAppend:
			if z.gated {
				d.unstickLocked(z, i)
				return
			}
			r.step = zonedAdmitted
			err = d.admitLocked(z, r)
		default:
			r.step = zonedChanged
			err = d.changeLocked(z, i, r)
		}
		z.wait.Pop()
		if err != nil {
			r.Deliver(d.errorOf(r, err))
			continue
		}
		r.Err = nil
		r.Post()
	}
}

// openGate lets writes into zone i again after a reset, its old data being
// gone; or, when that failed, fails those that wait for it. It is the committer's.
func (d *zoned) openGate(i int, failed error) {
	z := &d.zones[i]
	z.mu.Lock()
	defer z.mu.Unlock()
	if failed == nil && d.com.owesReset(i) {
		d.com.reset(i) // the zone was finished and reset again since the committer looked
		return
	}
	if failed != nil {
		failed = fmt.Errorf("%w: the zone's reset could not be completed: %w", disk.ErrIO, failed)
	}
	d.openLocked(z, i, failed)
}

// openLocked is openGate for zone z, whose lock is held, with what those who wait fail with.
func (d *zoned) openLocked(z *seqZone, i int, failed error) {
	if failed == nil {
		z.gated, z.owed = false, false
		d.serveLocked(z, i)
		return
	}
	z.stuck, z.owed = true, true
	for r := z.wait.Pop(); r != nil; r = z.wait.Pop() {
		r.Deliver(d.rules.ErrorOf(r, failed))
	}
}

// enterLocked moves zone z, whose lock is held, to state to, and accounts for its
// resources. Where the open zones are used up an implicitly open one is closed,
// the oldest first. On an error nothing has changed.
func (d *zoned) enterLocked(z *seqZone, i int, to zone.State) error {
	if z.state == to {
		return nil
	}
	d.res.mu.Lock()
	defer d.res.mu.Unlock()
	for {
		err := d.res.Move(z.state, to)
		if err == nil {
			break
		}
		if err != zone.ErrOpenLimit || d.res.oldest == 0 {
			return err
		}
		if !d.closeOldestLocked() {
			// Every candidate is locked by someone who is about to be done with
			// it, or waits for res.mu.
			d.res.mu.Unlock()
			runtime.Gosched()
			d.res.mu.Lock()
		}
	}
	if z.state == zone.ImpOpen {
		d.delistLocked(i)
	}
	gives := z.state.IsOpen() && !to.IsOpen() || z.state.IsActive() && !to.IsActive()
	z.state = to
	if gives {
		// Before anyone can take what it gives back: the tables must never show
		// more zones open or active than there may be, not to a kill -9 either.
		// If it fails, the caller's publish does too, and says so.
		d.publishLocked(z, i)
	}
	if to == zone.ImpOpen {
		d.enlistLocked(i)
	}
	return nil
}

// closeOldestLocked closes an implicitly open zone. res.mu is held; zones are locked
// before it, so here they can only be tried.
func (d *zoned) closeOldestLocked() bool {
	for n := d.res.oldest; n != 0; n = d.zones[n-1].newer {
		v := &d.zones[n-1]
		if !v.mu.TryLock() {
			continue
		}
		_ = d.res.Move(zone.ImpOpen, zone.Closed) // gives a resource back, so it cannot fail
		d.delistLocked(int(n - 1))
		v.state = zone.Closed
		d.publishLocked(v, int(n-1))
		v.mu.Unlock()
		return true
	}
	return false
}

// enlistLocked makes zone i the newest of the implicitly open ones. res.mu is held.
func (d *zoned) enlistLocked(i int) {
	n := int32(i + 1)
	z := &d.zones[i]
	z.older, z.newer = d.res.newest, 0
	if d.res.newest == 0 {
		d.res.oldest = n
	} else {
		d.zones[d.res.newest-1].newer = n
	}
	d.res.newest = n
}

// delistLocked takes zone i out of the implicitly open ones. res.mu is held.
func (d *zoned) delistLocked(i int) {
	z := &d.zones[i]
	if z.older == 0 {
		d.res.oldest = z.newer
	} else {
		d.zones[z.older-1].newer = z.newer
	}
	if z.newer == 0 {
		d.res.newest = z.older
	} else {
		d.zones[z.newer-1].older = z.older
	}
	z.older, z.newer = 0, 0
}
