package backend

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/internal/plant"
)

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

// queueLocked makes r wait for its turn at zone z, whose lock is held.
func (d *zoned) queueLocked(z *seqZone, r *zonedRequest) {
	z.wait.Push(r.Request)
	d.unstickLocked(z, int(r.zone))
}

// unstickLocked tries again to erase the old data of zone z, whose lock is held.
func (d *zoned) unstickLocked(z *seqZone, i int) {
	switch z.gate.retryLocked() {
	case eraseResidue:
		d.com.clear(i)
	case eraseReset:
		d.com.reset(i)
	}
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
			if z.gate.closed {
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
		z.gate.openLocked()
		d.serveLocked(z, i)
		return
	}
	z.gate.failLocked()
	for r := z.wait.Pop(); r != nil; r = z.wait.Pop() {
		r.Deliver(d.rules.ErrorOf(r, failed))
	}
}

// admitLocked gives r its address in zone z, whose lock is held, and puts it among
// the writes in flight; or says why not, with nothing changed.
func (d *zoned) admitLocked(z *seqZone, r *zonedRequest) error {
	i := int(r.zone)
	sectors := r.Bytes >> disk.SectorShift
	from := z.next
	if r.Op == disk.OpWrite {
		from = r.Sector & (d.img.ZoneSectors - 1)
	}
	to, err := zone.Transition(z.state, zone.OnWrite, z.next != 0)
	switch {
	case err != nil:
		return err
	case from != z.next:
		return zone.ErrUnaligned
	case sectors > d.img.Capacity(i)-from:
		return zone.ErrInvalid
	case sectors == 0:
		r.from, r.end = from, from
		return nil
	}
	if z.state != to {
		if err := d.enterLocked(z, i, to); err != nil {
			return err
		}
		if z.done > 0 {
			// Before the address is on record: whoever finishes this write in the
			// place of a daemon that died goes by the table, which says closed until
			// now. If it fails, so it does when the write has landed, which says so.
			d.publishLocked(z, i)
		}
	}
	r.from, r.end = from, from+sectors
	if !plant.LateNote {
		r.Note.At(uint64(i)<<d.shift+from, sectors)
	}
	failpoint.Hit(failpoint.Admit)
	z.next = r.end
	z.admitted++
	r.admission = z.admitted
	z.flying.addLocked(r)
	if plant.EarlyPointer {
		z.done = z.next
		d.publishLocked(z, i)
	}
	return nil
}
