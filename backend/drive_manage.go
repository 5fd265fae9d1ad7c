package backend

import (
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

var zoneCodes = [numOps]engine.Code{
	OpOpen: engine.ZoneOpen, OpClose: engine.ZoneClose, OpFinish: engine.ZoneFinish, OpReset: engine.ZoneReset,
}

// manage gets a zone management request on one zone in line.
func (d *drive) manage(r *driveRequest) {
	i := int(r.Sector >> d.rules.shift)
	if r.Sector >= d.info.CapacitySectors || d.conventional(i) || d.rules.offset(r.Sector) != 0 {
		d.fail(r, zone.ErrInvalid)
		return
	}
	r.zone = int32(i)
	d.enter(r)
}

// admitManage says whether zone z, whose lock is held, allows r; done if there is
// nothing to do for it.
func (d *drive) admitManage(z *driveZone, r *driveRequest) (done bool, err error) {
	w := zone.Entry(z.word.Load())
	switch {
	case d.info.ReadOnly:
		return true, frozen(r.Op, w)
	case w.State() == zone.Empty && r.wasEmptying():
		r.Mark.managed(r.Op, int(r.zone))
		return !r.Stable, nil // or reset once more, durably
	}
	to, err := zone.Transition(w.State(), events[r.Op], w.Written() != 0)
	return err == nil && to == w.State() && !r.Stable, err
}

// issueManage starts what r, which has its zone to itself, asks for.
func (d *drive) issueManage(r *driveRequest) {
	start := uint64(r.zone) << d.rules.shift
	r.step = driveManaged
	r.io.Code, r.io.FD = zoneCodes[r.Op], int(d.f.Fd())
	if w := d.entry(int(r.zone)); r.Op == OpClose && w.Written() == 0 && w.State() != zone.Closed {
		r.io.Code = engine.ZoneReset // to be empty; some drives would have it closed
		r.Mark.emptying(start)
	}
	r.io.Off, r.io.Len, r.io.Iov = d.offset(start), int64(d.zones[r.zone].sectors)<<SectorShift, nil
	r.start()
}

// managed goes on when the drive has done what r asks for, or not.
func (d *drive) managed(r *driveRequest) {
	if r.io.Err != nil {
		r.cause = r.io.Err
		d.look(r, driveReread, int(r.zone), int(r.zone)+1)
		return
	}
	z := &d.zones[r.zone]
	z.mu.Lock()
	w := zone.Entry(z.word.Load())
	written := w.Written()
	if r.Op == OpReset {
		written = 0
	}
	if to, err := zone.Transition(w.State(), events[r.Op], written != 0); err == nil { // else it failed since then
		z.word.Store(uint64(zone.Pack(int(r.zone), to, written)))
	}
	r.Mark.managed(r.Op, int(r.zone))
	z.mu.Unlock()
	lane := r.lane
	d.release(z, lane)
	d.stable(r)
}

// stable ends r, which was good, once that is durable if it has to be.
func (d *drive) stable(r *driveRequest) {
	if r.Stable {
		d.sync(r)
		return
	}
	r.finish(nil)
}

// holdFrom takes all zones from i on for r, a reset-all, in order. Where one is
// at work r waits in its line, and goes on when it gets it.
func (d *drive) holdFrom(r *driveRequest, i int) {
	for ; i < len(d.zones); i++ {
		z := &d.zones[i]
		z.mu.Lock()
		if z.busy || z.line.head != nil || z.owed > 0 {
			r.zone = int32(i)
			z.line.push(r.Request)
			z.mu.Unlock()
			return
		}
		d.occupy(z, true)
		z.mu.Unlock()
	}
	d.resetRun(r, 0)
}

// resettable says whether a reset-all resets zone i, if it has to be.
func (d *drive) resettable(i int) bool { return !d.conventional(i) && d.serving(i) }

// serving says whether zone i is neither read-only nor offline.
func (d *drive) serving(i int) bool {
	s := d.entry(i).State()
	return s != zone.ReadOnly && s != zone.Offline
}

// filled says whether zone i, which a reset-all has, has to be reset.
func (d *drive) filled(i int) bool {
	z := &d.zones[i]
	z.mu.Lock()
	defer z.mu.Unlock()
	return d.resettable(i) && (z.stale || d.entry(i).State() != zone.Empty)
}

// resetRun resets the next zones that stand side by side, from i on. All of a
// drive is one command where none of its zones is out of service.
func (d *drive) resetRun(r *driveRequest, i int) {
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
	r.zone, r.to, r.step = int32(from), int32(to), driveReset
	end := uint64(to-1)<<d.rules.shift + d.zones[to-1].sectors
	r.io.Code, r.io.FD, r.io.Iov = engine.ZoneReset, int(d.f.Fd()), nil
	r.io.Off = d.offset(uint64(from) << d.rules.shift)
	r.io.Len = d.offset(end) - r.io.Off
	r.start()
}

// inService says whether no zone of [from, to) is read-only or offline.
func (d *drive) inService(from, to int) bool {
	for i := from; i < to; i++ {
		if !d.serving(i) {
			return false
		}
	}
	return true
}

func (d *drive) resetRunDone(r *driveRequest) {
	if r.io.Err != nil {
		r.cause = r.io.Err
		d.look(r, driveReread, int(r.zone), int(r.to))
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
func (d *drive) resetRunFailed(r *driveRequest) {
	if d.inService(int(r.zone), int(r.to)) {
		d.letAllGo(r, driveError(r.cause))
		return
	}
	d.resetRun(r, int(r.zone))
}

// letAllGo ends a reset-all and gives all zones back.
func (d *drive) letAllGo(r *driveRequest, err error) {
	if err == nil {
		r.Mark.managed(r.Op, 0)
	}
	for i := range d.zones {
		d.release(&d.zones[i], r.lane)
	}
	if err != nil {
		d.fail(r, err)
		return
	}
	d.stable(r)
}
