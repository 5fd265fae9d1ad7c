package drive

import (
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// A zone of a drive does one thing at a time. What wants to write to it or to
// manage it stands in its line; whoever ends an I/O takes the next ones out of
// the line (next), and they go on on the lane of the first of them (run). Writes
// that follow one another are made one, up to what the drive takes at once; each
// keeps its own place and its own outcome. So that those which come together go
// together, a line that stands does not move before all of their batch are in it.

// write checks what can be checked without the zone, and gets in line.
func (d *Drive) write(r *request) {
	i, err := d.rules.Write(d, r.Request)
	r.zone = int32(i)
	switch {
	case err != nil:
		d.fail(r, err)
	case d.Conventional(i):
		d.writePlain(r)
	default:
		d.enter(r)
	}
}

// writePlain writes to conventional zones, which know no order.
func (d *Drive) writePlain(r *request) {
	if r.Bytes == 0 {
		r.Finish(nil)
		return
	}
	r.from, r.landed, r.end = d.rules.Offset(r.Sector), 0, d.rules.Offset(r.Sector)+r.Bytes>>disk.SectorShift
	r.step = stepAdmitted
	d.issue(r)
}

// enter puts r into its zone's line. If that stands it begins to move with the
// lane's Start.
func (d *Drive) enter(r *request) {
	z := &d.zones[r.zone]
	z.mu.Lock()
	z.line.Push(r.Request)
	begins := !z.busy && !z.waiting
	z.waiting = z.waiting || begins
	z.mu.Unlock()
	if begins {
		r.Lane.StartLater(z)
	}
}

// Begin lets the line of zone z, which stands, move.
func (z *driveZone) Begin(lane *disk.Lane) {
	z.mu.Lock()
	z.waiting = false
	next := z.of.nextLocked(z)
	z.mu.Unlock()
	z.of.run(next, lane)
}

// release gives zone z back, after I/O that was on lane, to those in its line.
func (d *Drive) release(z *driveZone, lane *disk.Lane) {
	z.mu.Lock()
	d.occupyLocked(z, false)
	next := d.nextLocked(z)
	z.mu.Unlock()
	d.run(next, lane)
}

// occupyLocked notes that zone z, whose lock is held, is given to somebody or back.
func (d *Drive) occupyLocked(z *driveZone, busy bool) { z.busy, z.since = busy, d.asked.Load() }

// run goes on with a request that has got its zone, on its own lane.
func (d *Drive) run(r *request, lane *disk.Lane) {
	switch {
	case r == nil:
	case r.Lane == lane:
		d.goOn(r)
	default:
		r.Post()
	}
}

// nextLocked takes who may go on out of the line of zone z, whose lock is held, and
// gives it the zone; nil when nobody may. Those that end without any I/O are
// posted to their lanes.
func (d *Drive) nextLocked(z *driveZone) *request {
	if z.busy || z.owed > 0 {
		return nil
	}
	for q := z.line.Pop(); q != nil; q = z.line.Pop() {
		r := requestOf(q)
		var err error
		done := false
		switch {
		case r.Op == disk.OpResetAll:
			r.step = stepHeld
		case z.stale:
			r.step, r.cause = stepUnknown, nil
		case r.again:
			done, err = d.admitAgainLocked(z, r, zone.Entry(z.word.Load()).Written())
			r.step = stepAdmitted
		case r.Op == disk.OpWrite || r.Op == disk.OpAppend:
			err = d.admitLocked(z, r, zone.Entry(z.word.Load()).Written())
			done = r.Bytes == 0
			r.step = stepAdmitted
		default:
			done, err = d.admitManageLocked(z, r)
			r.step = stepAllowed
		}
		if done || err != nil {
			d.leave(r, err)
			continue
		}
		d.occupyLocked(z, true)
		if r.step == stepAdmitted && !oneLock {
			d.followLocked(z, r)
		}
		return r
	}
	return nil
}

// leave posts r, which is done, to its lane.
func (d *Drive) leave(r *request, err error) {
	if err != nil {
		err = d.errorOf(r, err)
	}
	r.Deliver(err)
}

// admitLocked gives r its address in zone z, whose lock is held and whose write
// pointer will be at sector at of it when r's turn comes; or says why not.
func (d *Drive) admitLocked(z *driveZone, r *request, at uint64) error {
	sectors := r.Bytes >> disk.SectorShift
	from := at
	if r.Op == disk.OpWrite {
		from = d.rules.Offset(r.Sector)
	}
	_, err := zone.Transition(zone.Entry(z.word.Load()).State(), zone.OnWrite, true)
	switch {
	case err != nil:
		return err
	case from != at:
		return zone.ErrUnaligned
	case sectors > z.capSecs-from:
		return zone.ErrInvalid
	}
	r.from, r.end, r.landed, r.again = from, from+sectors, 0, false
	r.AppendSector = uint64(r.zone)<<d.rules.Shift + from
	if sectors > 0 {
		r.Note.At(r.AppendSector, sectors)
	}
	return nil
}

// maxVectors bounds the vectors of writes that are made one (UIO_MAXIOV).
const maxVectors = 1024

// followLocked takes the writes out of the line that go on where r, which leads them,
// ends. The lock of zone z is held.
func (d *Drive) followLocked(z *driveZone, r *request) {
	r.followers = disk.List{}
	bytes, vectors, end := r.Bytes, len(r.Iov), r.end
	for q := z.line.Head; q != nil; q = z.line.Head {
		m := requestOf(q)
		isWrite := m.Op == disk.OpAppend || m.Op == disk.OpWrite
		if !isWrite || m.Bytes == 0 || m.Stable != r.Stable || bytes+m.Bytes > d.maxBatch || vectors+len(m.Iov) > maxVectors ||
			d.admitLocked(z, m, end) != nil { // which it is told when it is the first
			break
		}
		z.line.Pop()
		r.followers.Push(q)
		bytes, vectors, end = bytes+m.Bytes, vectors+len(m.Iov), m.end
	}
}

// following is who comes behind m among those that leader leads.
func (m *request) following(leader *request) *request {
	next := m.Next
	if m == leader {
		next = leader.followers.Head
	}
	if next == nil {
		return nil
	}
	return requestOf(next)
}

// wrote goes on when the data of r and its followers has been moved, or not. If
// not, nobody but the drive knows how far it came.
func (d *Drive) wrote(r *request) {
	if r.IO.Err == nil && d.proceed(r) {
		return
	}
	if b := r.copied; b != nil {
		r.copied, b.Guest = nil, nil
		b.Free()
		r.Repay()
	}
	d.device.give(d, r.Lane)
	end := r.end
	if last := r.followers.Tail; last != nil {
		end = requestOf(last).end
	}
	if err := r.IO.Err; err != nil {
		r.cause = err
		part := uint64(r.IO.Off-d.offset(uint64(r.zone)<<d.rules.Shift)) >> disk.SectorShift
		r.tried = [2]uint64{part + uint64(r.IO.N)>>disk.SectorShift, part + uint64(r.IO.Len)>>disk.SectorShift}
		d.look(r, stepReread, int(r.zone), int(r.zone)+1)
		return
	}
	z := &d.zones[r.zone]
	if z.typ == zone.Conventional {
		r.Finish(nil)
		return
	}
	z.mu.Lock()
	w := zone.Entry(z.word.Load())
	to := w.State()
	switch {
	case to == zone.ReadOnly || to == zone.Offline: // since then
	case end == z.capSecs:
		to = zone.Full
	case to != zone.ExpOpen:
		to = zone.ImpOpen
	}
	z.word.Store(uint64(zone.Pack(int(r.zone), to, end)))
	z.mu.Unlock()
	d.settle(r, nil)
}

// settle ends r and its followers, each with what outcome says of it, and gives
// their zone back.
func (d *Drive) settle(r *request, outcome func(m *request) error) {
	z, lane, followers := &d.zones[r.zone], r.Lane, r.followers
	r.followers = disk.List{}
	var err error
	if outcome != nil {
		err = outcome(r)
	}
	r.marked(z, err)
	for q := followers.Pop(); q != nil; q = followers.Pop() {
		m := requestOf(q)
		var err error
		if outcome != nil {
			err = outcome(m)
		}
		m.marked(z, err)
		d.leave(m, err)
	}
	if z.typ != zone.Conventional {
		d.release(z, lane)
	}
	if err != nil {
		err = d.errorOf(r, err)
	}
	r.Finish(err)
}

// marked notes the outcome of a write before anybody else gets its zone.
func (r *request) marked(z *driveZone, err error) {
	switch {
	case z.typ == zone.Conventional:
	case err == nil:
		r.Note.Done(r.AppendSector)
	default:
		r.Note.Failed()
	}
}
