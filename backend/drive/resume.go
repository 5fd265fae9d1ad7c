package drive

import (
	"cmp"
	"slices"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// This file finishes what another daemon had begun on a drive when it died, from
// the notes that it left (disk/note.go). The drive itself knows how far each write came:
// its write pointer. A zone that has writes to be finished is kept for them, until
// all have come; then they go first, in the order of their addresses, each from
// where the write pointer stands. A zone that a request was about to change is kept for
// that, which is carried out once more. docs/restart.md has the argument.

// User and renew implements disk.Resumer. A drive has no place to count its users in: whose
// write pointer has passed a write's end is taken for it.
func (d *Drive) User() uint64 { return 0 }
func (d *Drive) Renew() error { return nil }

// Begin, Unclean and LeaveUnclean implement disk.Resumer: a drive keeps no note of who uses it.
func (d *Drive) Begin() error  { return nil }
func (d *Drive) Unclean() bool { return false }
func (d *Drive) LeaveUnclean() {}

// Reserve implements disk.Resumer.
func (d *Drive) Reserve(claims []disk.Reservation) {
	for len(claims) > 0 {
		zn, n := claims[0].Was.Sector>>d.rules.Shift, 1
		for n < len(claims) && claims[n].Was.Sector>>d.rules.Shift == zn {
			n++
		}
		d.reserveIn(zn, claims[:n])
		claims = claims[n:]
	}
}

// reserveIn is reserve for claims in one zone, if there is such a zone.
func (d *Drive) reserveIn(zn uint64, claims []disk.Reservation) {
	if i := int(zn); d.info.ReadOnly || zn >= uint64(len(d.zones)) || d.Conventional(i) || !d.serving(i) {
		for _, c := range claims {
			c.Of.Failed()
		}
		return
	}
	z := &d.zones[zn]
	z.mu.Lock()
	defer z.mu.Unlock()
	d.claims.mu.Lock()
	defer d.claims.mu.Unlock()
	if d.claims.of == nil {
		d.claims.of = map[*disk.Note]driveClaim{}
	}
	old := z.claimed
	all := make([]driveClaim, 0, len(old)+len(claims))
	for _, c := range claims {
		n := driveClaim{zone: int(zn), from: d.rules.Offset(c.Was.Sector)}
		n.end = n.from + c.Was.Sectors
		for ; len(old) > 0 && old[0].from <= n.from; old = old[1:] {
			all = append(all, old[0])
			d.claims.steps++
		}
		switch k := len(all); {
		case z.changing, c.Was.Sectors == 0, c.Was.Sectors > z.capSecs, n.end > z.capSecs, !d.rules.Granular(n.from << disk.SectorShift), !d.rules.Granular(n.end << disk.SectorShift),
			k > 0 && all[k-1].end > n.from, len(old) > 0 && old[0].from < n.end: // two at one place: nobody admitted that
			c.Of.Failed()
			continue
		case zone.Entry(z.word.Load()).Written() >= n.end:
			c.Of.Done(c.Was.Sector)
		default:
			z.owed++
			d.claims.of[c.Of] = n
		}
		all = append(all, n)
	}
	if z.claimed = append(all, old...); z.owed == 0 {
		z.claimed = nil
	}
}

// A driveClaim is where a write in flight was going, or what a request was about to do to a
// zone: what its note said when it was claimed, whatever it says by now.
type driveClaim struct {
	zone      int
	from, end uint64  // of a write: sectors from the zone's start
	change    disk.Op // of zone management; 0: a write
}

// zonesOf are the zones [from, to) that are kept for c.
func (d *Drive) zonesOf(c driveClaim) (from, to int) {
	if c.change == disk.OpResetAll {
		return 0, len(d.zones)
	}
	return c.zone, c.zone + 1
}

// claimed takes back what was claimed for m; false when nothing was.
func (d *Drive) claimed(m *disk.Note) (c driveClaim, ok bool) {
	d.claims.mu.Lock()
	defer d.claims.mu.Unlock()
	c, ok = d.claims.of[m]
	delete(d.claims.of, m)
	return c, ok
}

// settleOwedLocked takes a claim out of what zone z, whose lock is held, is kept for. With the
// last one those that have come get in line.
func (z *driveZone) settleOwedLocked() {
	if z.owed--; z.owed > 0 {
		return
	}
	z.claimed, z.changing = nil, false
	slices.SortFunc(z.again, func(a, b *request) int { return cmp.Compare(a.from, b.from) })
	for _, r := range slices.Backward(z.again) {
		z.line.PushFront(r.Request)
	}
	z.again = nil
}

// forgo gives up m, whose claim is c. The zones may go on then.
func (d *Drive) forgo(m *disk.Note, c driveClaim, lane *disk.Lane) {
	m.Failed()
	from, to := d.zonesOf(c)
	for i := from; i < to; i++ {
		z := &d.zones[i]
		z.mu.Lock()
		z.settleOwedLocked()
		next := d.nextLocked(z)
		z.mu.Unlock()
		d.run(next, lane)
	}
}

// Emptied implements disk.Resumer. Whether the zone is empty the drive may have to be asked,
// so it is looked at when the close comes: admitManage.
func (d *Drive) Emptied(m *disk.Note, sector uint64) {
	if d.rules.Offset(sector) != 0 {
		m.Clear()
		return
	}
	d.keep(m, driveClaim{zone: int(sector >> d.rules.Shift), change: disk.OpClose})
}

// Changed implements disk.Resumer.
func (d *Drive) Changed(m *disk.Note, was disk.Noted) {
	op := was.Op()
	if was.What != disk.NotedChanging || op != disk.OpResetAll && (op >= disk.NumOps || zoneCodes[op] == 0) {
		m.Failed()
		return
	}
	d.keep(m, driveClaim{zone: was.Zone, change: op})
}

// keep keeps the zones of c, which a request was about to change and has to itself, for
// that request: m is its note, which a front-end may have stored.
func (d *Drive) keep(m *disk.Note, c driveClaim) {
	all := c.change == disk.OpResetAll
	if d.info.ReadOnly || !all && (c.zone >= len(d.zones) || d.Conventional(c.zone)) {
		m.Clear() // and it is refused
		return
	}
	d.claims.mu.Lock()
	alone := len(d.claims.of) == 0
	d.claims.mu.Unlock()
	from, to := d.zonesOf(c)
	for i := from; i < to; i++ {
		z := &d.zones[i]
		z.mu.Lock()
		free := z.owed == 0 && (alone || !all)
		if free {
			z.owed, z.changing = 1, true
		}
		z.mu.Unlock()
		if !free { // it did not have the zone to itself
			m.Failed()
			return
		}
	}
	d.claims.mu.Lock()
	defer d.claims.mu.Unlock()
	if d.claims.of == nil {
		d.claims.of = map[*disk.Note]driveClaim{}
	}
	d.claims.of[m] = c
}

// wasEmptying says that r is a close which another daemon was about to make its zone
// empty with: where that is empty, r is done.
func (r *request) wasEmptying() bool {
	if r.Op != disk.OpClose || r.Note == nil {
		return false
	}
	was := r.Note.Load()
	return was.What == disk.NotedEmptying && was.Sector == r.Sector
}

// Disown implements disk.Resumer.
func (d *Drive) Disown(m *disk.Note) {
	if c, ok := d.claimed(m); ok {
		d.forgo(m, c, nil)
	}
}

// Unclaim implements disk.Resumer.
func (d *Drive) Unclaim(m *disk.Note) {
	c, ok := d.claimed(m)
	if !ok {
		return
	}
	from, to := d.zonesOf(c)
	for i := from; i < to; i++ {
		z := &d.zones[i]
		z.mu.Lock()
		z.settleOwedLocked()
		z.mu.Unlock()
	}
}

// Resume implements disk.Resumer.
func (d *Drive) Resume(q *disk.Request) {
	r := requestOf(q)
	switch was := r.Note.Load(); was.What {
	case disk.NotedAddress:
		d.readmit(r)
	case disk.NotedDone:
		if !was.Agrees(&d.rules, d, q) {
			d.fail(r, disk.ErrIO)
			return
		}
		r.AppendSector = was.Sector
		d.stable(r)
	case disk.NotedEmptying, disk.NotedChanging:
		d.changeAgain(r)
	default:
		d.fail(r, disk.ErrIO)
	}
}

// readmit puts r, a write with an address, among those that come first in its zone.
func (d *Drive) readmit(r *request) {
	c, ok := d.claimed(r.Note)
	if !ok { // it was refused
		d.fail(r, disk.ErrIO)
		return
	}
	i, err := d.rules.Write(d, r.Request)
	r.zone = int32(i)
	same := err == nil && c.change == 0 && i == c.zone && r.Bytes>>disk.SectorShift == c.end-c.from &&
		(r.Op == disk.OpAppend || r.Op == disk.OpWrite && d.rules.Offset(r.Sector) == c.from)
	if !same {
		d.forgo(r.Note, c, r.Lane)
		d.fail(r, disk.ErrIO) // not the request that it was: the guest has changed it in flight
		return
	}
	z := &d.zones[c.zone]
	z.mu.Lock()
	r.from, r.end, r.again = c.from, c.end, true
	z.again = append(z.again, r)
	z.settleOwedLocked()
	next := d.nextLocked(z)
	z.mu.Unlock()
	d.run(next, r.Lane)
}

// changeAgain carries out r, a request that was about to change the zones which are kept
// for it, before any other request can.
func (d *Drive) changeAgain(r *request) {
	c, ok := d.claimed(r.Note)
	if !ok { // it was refused
		d.fail(r, disk.ErrIO)
		return
	}
	all := c.change == disk.OpResetAll
	if r.Op != c.change || !all && r.Sector != uint64(c.zone)<<d.rules.Shift {
		d.forgo(r.Note, c, r.Lane)
		d.fail(r, disk.ErrIO) // not the request that it was
		return
	}
	if all {
		for i := range d.zones {
			z := &d.zones[i]
			z.mu.Lock()
			z.settleOwedLocked()
			d.occupyLocked(z, true)
			z.mu.Unlock()
		}
		d.resetRun(r, 0)
		return
	}
	z := &d.zones[c.zone]
	z.mu.Lock()
	r.zone, r.from, r.end, r.again = int32(c.zone), 0, 0, false
	z.again = append(z.again, r)
	z.settleOwedLocked()
	next := d.nextLocked(z)
	z.mu.Unlock()
	d.run(next, r.Lane)
}

// admitAgainLocked is admit for a write that has an address, in zone z, whose lock is held
// and whose write pointer is at sector at. done says that all of it is there.
func (d *Drive) admitAgainLocked(z *driveZone, r *request, at uint64) (done bool, err error) {
	r.again = false
	switch {
	case at >= r.end:
		r.AppendSector = uint64(r.zone)<<d.rules.Shift + r.from
		r.Note.Done(r.AppendSector)
		return true, nil
	case at < r.from:
		// What stood before it has failed. It was told nobody where it is.
		r.Note.Clear()
		return false, d.admitLocked(z, r, at)
	}
	if _, err := zone.Transition(zone.Entry(z.word.Load()).State(), zone.OnWrite, true); err != nil {
		return false, err
	}
	r.AppendSector = uint64(r.zone)<<d.rules.Shift + r.from
	r.landed = at - r.from
	return false, nil
}
