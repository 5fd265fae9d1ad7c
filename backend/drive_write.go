package backend

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/engine"
)

// A zone of a drive does one thing at a time. What wants to write to it or to
// manage it stands in its line; whoever ends an I/O takes the next ones out of
// the line (next), and they go on on the lane of the first of them (run). Writes
// that follow one another are made one, up to what the drive takes at once; each
// keeps its own place and its own outcome.

// write checks what can be checked without the zone, and gets in line.
func (d *drive) write(r *Request) {
	switch err := d.rules.write(d, r); {
	case err != nil:
		d.fail(r, err)
	case d.conventional(int(r.zone)):
		d.writePlain(r)
	default:
		d.enter(r)
	}
}

// writePlain writes to conventional zones, which know no order.
func (d *drive) writePlain(r *Request) {
	if r.Bytes == 0 {
		r.lane.finish(r, nil)
		return
	}
	r.from, r.end = d.rules.offset(r.Sector), d.rules.offset(r.Sector)+r.Bytes>>SectorShift
	r.step = stepIssue
	d.issue(r)
}

// enter puts r into its zone's line, and lets the line go on if it can.
func (d *drive) enter(r *Request) {
	z := &d.zones[r.zone]
	z.mu.Lock()
	z.line.push(r)
	next := d.next(z)
	z.mu.Unlock()
	d.run(next, r.lane)
}

// release gives zone z back, after I/O that was on lane, to those in its line.
func (d *drive) release(z *driveZone, lane *Lane) {
	z.mu.Lock()
	z.busy = false
	next := d.next(z)
	z.mu.Unlock()
	d.run(next, lane)
}

// run goes on with a request that has got its zone, on its own lane.
func (d *drive) run(r *Request, lane *Lane) {
	switch {
	case r == nil:
	case r.lane == lane:
		d.ioDone(r)
	default:
		r.lane.post(r)
	}
}

// next takes who may go on out of the line of zone z, whose lock is held, and
// gives it the zone; nil when nobody may. Those that end without any I/O are
// posted to their lanes.
func (d *drive) next(z *driveZone) *Request {
	if z.busy {
		return nil
	}
	for r := z.line.pop(); r != nil; r = z.line.pop() {
		var err error
		done := false
		switch {
		case r.Op == OpResetAll:
			r.step = stepResetAll
		case z.stale:
			r.step, r.cause = stepLookFirst, nil
		case r.Op == OpWrite || r.Op == OpAppend:
			err = d.admit(z, r, word(z.word.Load()).written())
			done = r.Bytes == 0
			r.step = stepIssue
		default:
			done, err = d.admitManage(z, r)
			r.step = stepManaged
		}
		if done || err != nil {
			d.leave(r, err)
			continue
		}
		z.busy = true
		if r.step == stepIssue {
			d.follow(z, r)
		}
		return r
	}
	return nil
}

// leave posts r, which is done, to its lane.
func (d *drive) leave(r *Request, err error) {
	r.step, r.Err = stepEnd, nil
	if err != nil {
		r.Err = d.errorOf(r, err)
	}
	r.lane.post(r)
}

// admit gives r its address in zone z, whose lock is held and whose write
// pointer will be at sector at of it when r's turn comes; or says why not.
func (d *drive) admit(z *driveZone, r *Request, at uint64) error {
	sectors := r.Bytes >> SectorShift
	from := at
	if r.Op == OpWrite {
		from = d.rules.offset(r.Sector)
	}
	_, err := transition(word(z.word.Load()).state(), evWrite, true)
	switch {
	case err != nil:
		return err
	case from != at:
		return ErrUnalignedWP
	case sectors > z.capSecs-from:
		return ErrZoneInvalid
	}
	r.from, r.end = from, from+sectors
	r.AppendSector = uint64(r.zone)<<d.rules.shift + from
	return nil
}

// maxVectors bounds the vectors of writes that are made one (UIO_MAXIOV).
const maxVectors = 1024

// follow takes the writes out of the line that go on where r, which leads them,
// ends. The lock of zone z is held.
func (d *drive) follow(z *driveZone, r *Request) {
	r.batch = reqList{}
	bytes, vectors, end := r.Bytes, len(r.Iov), r.end
	for m := z.line.head; m != nil; m = z.line.head {
		isWrite := m.Op == OpAppend || m.Op == OpWrite
		if !isWrite || m.Bytes == 0 || m.Stable != r.Stable || bytes+m.Bytes > d.maxBatch || vectors+len(m.Iov) > maxVectors ||
			d.admit(z, m, end) != nil { // which it is told when it is the first
			break
		}
		z.line.pop()
		r.batch.push(m)
		bytes, vectors, end = bytes+m.Bytes, vectors+len(m.Iov), m.end
	}
}

// following is who comes behind m among those that leader leads.
func (m *Request) following(leader *Request) *Request {
	if m == leader {
		return leader.batch.head
	}
	return m.next
}

// wrote goes on when the data of r and its followers has been moved, or not. If
// not, nobody but the drive knows how far it came.
func (d *drive) wrote(r *Request) {
	if r.io.Err == nil && int(r.seg) < len(r.clip) {
		d.issuePart(r, r.io.Off+r.io.Len)
		return
	}
	end := r.end
	for m := r; m != nil; m = m.following(r) {
		if end = m.end; m.bounce != nil {
			m.bounce.free()
			m.bounce = nil
		}
	}
	if err := r.io.Err; err != nil {
		r.cause = err
		d.look(r, stepReread, int(r.zone), int(r.zone)+1)
		return
	}
	z := &d.zones[r.zone]
	if z.typ == ZoneConventional {
		r.lane.finish(r, nil)
		return
	}
	z.mu.Lock()
	w := word(z.word.Load())
	to := w.state()
	switch {
	case to == ReadOnly || to == Offline: // since then
	case end == z.capSecs:
		to = Full
	case to != ExpOpen:
		to = ImpOpen
	}
	z.word.Store(uint64(pack(int(r.zone), to, end)))
	z.mu.Unlock()
	d.settle(r, nil)
}

// settle ends r and its followers, each with what outcome says of it, and gives
// their zone back.
func (d *drive) settle(r *Request, outcome func(m *Request) error) {
	z, lane, followers := &d.zones[r.zone], r.lane, r.batch
	r.batch = reqList{}
	var err error
	if outcome != nil {
		err = outcome(r)
	}
	for m := followers.pop(); m != nil; m = followers.pop() {
		var err error
		if outcome != nil {
			err = outcome(m)
		}
		d.leave(m, err)
	}
	if z.typ != ZoneConventional {
		d.release(z, lane)
	}
	if err != nil {
		err = d.errorOf(r, err)
	}
	lane.finish(r, err)
}

// look asks the drive about zones [from, to), and goes on with step.
func (d *drive) look(r *Request, next step, from, to int) {
	r.step, r.zone, r.seg = next, int32(from), uint32(to)
	r.bounce = newBounce(uint64(engine.ZoneReportBytes + (to-from)*engine.ZoneBytes))
	r.io.Code, r.io.FD, r.io.Off, r.io.Iov = engine.ZoneReport, int(d.f.Fd()), d.offset(uint64(from)<<d.rules.shift), r.bounce.iov[:]
	r.io.Len = int64(len(r.bounce.data))
	r.lane.eng.Queue(&r.io)
}

// seen returns what look has found.
func (d *drive) seen(r *Request) ([]kernelZone, error) {
	b := r.bounce
	r.bounce = nil
	defer b.free()
	if r.io.Err != nil {
		return nil, r.io.Err
	}
	zones, err := decodeZones(b.data)
	if n := int(r.seg) - int(r.zone); err == nil && len(zones) != n {
		err = fmt.Errorf("the kernel reports %d zones and not %d", len(zones), n)
	}
	return zones, err
}

// reread goes on when the drive has been asked about the zones that r has to
// itself: after I/O of r that failed, or before r can begin.
func (d *drive) reread(r *Request) {
	zones, err := d.seen(r)
	for i := int(r.zone); i < int(r.seg); i++ {
		z := &d.zones[i]
		z.mu.Lock()
		if z.stale = err != nil; !z.stale {
			z.word.Store(uint64(zones[i-int(r.zone)].entry(i)))
		}
		z.mu.Unlock()
	}
	z := &d.zones[r.zone]
	switch {
	case r.cause == nil && err != nil:
		d.settle(r, func(*Request) error { return driveError(err) })
	case r.cause == nil: // now it can begin
		lane := r.lane
		z.mu.Lock()
		z.busy = false
		z.line.pushFront(r)
		next := d.next(z)
		z.mu.Unlock()
		d.run(next, lane)
	case r.Op == OpResetAll:
		d.letAllGo(r, d.verdict(r.zone, r.cause))
	default:
		d.settle(r, func(m *Request) error {
			w := word(z.word.Load())
			landed := (m.Op == OpWrite || m.Op == OpAppend) && err == nil && !m.Stable && z.typ != ZoneConventional &&
				w.state() != ReadOnly && w.state() != Offline && m.end <= w.written()
			if landed {
				return nil
			}
			return d.verdict(m.zone, r.cause)
		})
	}
}

// verdict is the error of a request that failed with cause, now that its zone
// has been looked at: one that turned read-only or offline says so.
func (d *drive) verdict(zone int32, cause error) error {
	if s := d.entry(int(zone)).state(); s == ReadOnly || s == Offline {
		return fmt.Errorf("%w: the zone is %v by now: %w", ErrZoneInvalid, s, cause)
	}
	return driveError(cause)
}

// examine looks, after a read that failed with err, whether its zone is offline
// by now.
func (d *drive) examine(r *Request, err error) {
	r.cause = err
	i := int(r.Sector >> d.rules.shift)
	d.look(r, stepReport, i, i+1)
}

// report brings what ReportZone says up to date, for r.Bytes zones from r.Sector
// on: drives close open zones by themselves, and zones fail.
func (d *drive) report(r *Request) {
	from := int(r.Sector >> d.rules.shift)
	to := from + int(r.Bytes)
	if r.Sector >= d.info.CapacitySectors || to <= from || to > len(d.zones) {
		d.fail(r, ErrZoneInvalid)
		return
	}
	r.cause = nil
	d.look(r, stepReport, from, to)
}

// reported takes over what look has found, but for zones at work: what they are
// is known better when they are done.
func (d *drive) reported(r *Request) {
	zones, err := d.seen(r)
	for n := range zones {
		i, k := int(r.zone)+n, &zones[n]
		z := &d.zones[i]
		z.mu.Lock()
		w := word(z.word.Load())
		switch {
		case k.state == ReadOnly || k.state == Offline:
			if w.state() != k.state {
				z.word.Store(uint64(pack(i, k.state, w.written())))
			}
		case z.busy, k.typ != z.typ:
		case w.state() == ImpOpen && k.state == Closed && k.entry(i).written() == w.written():
			z.word.Store(uint64(pack(i, Closed, w.written())))
		}
		z.mu.Unlock()
	}
	switch {
	case r.Op == OpReport:
		d.end(r, err)
	default:
		d.fail(r, d.verdict(r.zone, r.cause))
	}
}
