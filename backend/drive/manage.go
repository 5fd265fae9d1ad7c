package drive

import (
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

var zoneCodes = [disk.NumOps]engine.Code{
	disk.OpOpen: engine.ZoneOpen, disk.OpClose: engine.ZoneClose, disk.OpFinish: engine.ZoneFinish, disk.OpReset: engine.ZoneReset,
}

// manage gets a zone management request on one zone in line.
func (d *Drive) manage(r *request) {
	i := int(r.Sector >> d.rules.Shift)
	if r.Sector >= d.info.CapacitySectors || d.Conventional(i) || d.rules.Offset(r.Sector) != 0 {
		d.fail(r, zone.ErrInvalid)
		return
	}
	r.zone = int32(i)
	d.enter(r)
}

// admitManageLocked says whether zone z, whose lock is held, allows r; done if there is
// nothing to do for it.
func (d *Drive) admitManageLocked(z *driveZone, r *request) (done bool, err error) {
	w := zone.Entry(z.word.Load())
	switch {
	case d.info.ReadOnly:
		return true, disk.OnReadOnly(r.Op, w)
	case w.State() == zone.Empty && r.wasEmptying():
		r.Note.Managed(r.Op, int(r.zone))
		return !r.Stable, nil // or reset once more, durably
	}
	to, err := zone.Transition(w.State(), disk.ZoneEvents[r.Op], w.Written() != 0)
	switch {
	case err != nil:
		r.Note.Clear()
	case to == w.State() && !r.Stable:
		r.Note.Managed(r.Op, int(r.zone))
		return true, nil
	}
	return false, err
}

// issueManage starts what r, which has its zone to itself, asks for.
func (d *Drive) issueManage(r *request) {
	start := uint64(r.zone) << d.rules.Shift
	r.step = stepManaged
	r.IO.Code, r.IO.FD = zoneCodes[r.Op], int(d.f.Fd())
	if w := d.Entry(int(r.zone)); r.Op == disk.OpClose && w.Written() == 0 && w.State() != zone.Closed {
		r.IO.Code = engine.ZoneReset // to be empty; some drives would have it closed
		r.Note.Emptying(start)
	} else {
		r.Note.Changing(r.Op, int(r.zone))
	}
	r.IO.Off, r.IO.Len, r.IO.Iov = d.offset(start), int64(d.zones[r.zone].sectors)<<disk.SectorShift, nil
	r.StartIO()
}

// managed goes on when the drive has done what r asks for, or not.
func (d *Drive) managed(r *request) {
	if r.IO.Err != nil {
		r.cause = r.IO.Err
		d.look(r, stepReread, int(r.zone), int(r.zone)+1)
		return
	}
	z := &d.zones[r.zone]
	z.mu.Lock()
	w := zone.Entry(z.word.Load())
	written := w.Written()
	if r.Op == disk.OpReset {
		written = 0
	}
	if to, err := zone.Transition(w.State(), disk.ZoneEvents[r.Op], written != 0); err == nil { // else it failed since then
		z.word.Store(uint64(zone.Pack(int(r.zone), to, written)))
	}
	r.Note.Managed(r.Op, int(r.zone))
	z.mu.Unlock()
	lane := r.Lane
	d.release(z, lane)
	d.stable(r)
}

// stable ends r, which was good, once that is durable if it has to be.
func (d *Drive) stable(r *request) {
	if r.Stable {
		d.sync(r)
		return
	}
	r.Finish(nil)
}

// holdFrom takes all zones from i on for r, a reset-all, in order. Where one is
// at work r waits in its line, and goes on when it gets it.
func (d *Drive) holdFrom(r *request, i int) {
	for ; i < len(d.zones); i++ {
		z := &d.zones[i]
		z.mu.Lock()
		if z.busy || z.line.Head != nil || z.owed > 0 {
			r.zone = int32(i)
			z.line.Push(r.Request)
			z.mu.Unlock()
			return
		}
		d.occupyLocked(z, true)
		z.mu.Unlock()
	}
	r.Note.Changing(r.Op, 0)
	d.resetRun(r, 0)
}

// resettable says whether a reset-all resets zone i, if it has to be.
func (d *Drive) resettable(i int) bool { return !d.Conventional(i) && d.serving(i) }

// serving says whether zone i is neither read-only nor offline.
func (d *Drive) serving(i int) bool {
	s := d.Entry(i).State()
	return s != zone.ReadOnly && s != zone.Offline
}

// filled says whether zone i, which a reset-all has, has to be reset.
func (d *Drive) filled(i int) bool {
	z := &d.zones[i]
	z.mu.Lock()
	defer z.mu.Unlock()
	return d.resettable(i) && (z.stale || d.Entry(i).State() != zone.Empty)
}

// resetRun resets the next zones that stand side by side, from i on. All of a
// drive is one command where none of its zones is out of service.
func (d *Drive) resetRun(r *request, i int) {
	for i < len(d.zones) && !d.filled(i) {
		i++
	}
	if i == len(d.zones) {
		d.letAllGo(r, nil)
		return
	}
	from, to := i, i+1
	for to < len(d.zones) && d.filled(to) {
		to++
	}
	if d.whole && d.inService(0, len(d.zones)) {
		from, to = 0, len(d.zones)
	}
	r.zone, r.to, r.step = int32(from), int32(to), stepReset
	end := uint64(to-1)<<d.rules.Shift + d.zones[to-1].sectors
	r.IO.Code, r.IO.FD, r.IO.Iov = engine.ZoneReset, int(d.f.Fd()), nil
	r.IO.Off = d.offset(uint64(from) << d.rules.Shift)
	r.IO.Len = d.offset(end) - r.IO.Off
	r.StartIO()
}

// inService says whether no zone of [from, to) is read-only or offline.
func (d *Drive) inService(from, to int) bool {
	for i := from; i < to; i++ {
		if !d.serving(i) {
			return false
		}
	}
	return true
}

func (d *Drive) resetRunDone(r *request) {
	if r.IO.Err != nil {
		r.cause = r.IO.Err
		d.look(r, stepReread, int(r.zone), int(r.to))
		return
	}
	for i := int(r.zone); i < int(r.to); i++ {
		z := &d.zones[i]
		z.mu.Lock()
		if d.resettable(i) {
			z.word.Store(uint64(zone.Pack(i, zone.Empty, 0)))
			z.stale = false
		}
		z.mu.Unlock()
	}
	d.resetRun(r, int(r.to))
}

// resetRunFailed goes on when the zones of a run that failed have been looked at.
// Those that went out of service under it are passed over; each time there is one
// zone less to reset, so this ends.
func (d *Drive) resetRunFailed(r *request) {
	if d.inService(int(r.zone), int(r.to)) {
		d.letAllGo(r, sentinelOf(r.cause))
		return
	}
	d.resetRun(r, int(r.zone))
}

// letAllGo ends a reset-all and gives all zones back.
func (d *Drive) letAllGo(r *request, err error) {
	if err == nil {
		r.Note.Managed(r.Op, 0)
	} else {
		r.Note.Failed()
	}
	for i := range d.zones {
		d.release(&d.zones[i], r.Lane)
	}
	if err != nil {
		d.fail(r, err)
		return
	}
	d.stable(r)
}
