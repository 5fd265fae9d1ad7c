package backend

import (
	"cmp"
	"slices"

	"github.com/zvhost/zvhost/backend/zone"
)

// This file finishes what another daemon had begun on a drive when it died, from
// the marks that it left (mark.go). The drive itself knows how far each write came:
// its write pointer. A zone that has writes to be finished is kept for them, until
// all have come; then they go first, in the order of their addresses, each from
// where the write pointer stands. docs/restart.md has the argument.

// user and renew implement marker. A drive has no place to count its users in: whose
// write pointer has passed a write's end is taken for it.
func (d *drive) user() uint64 { return 0 }
func (d *drive) renew() error { return nil }

// begin, unclean and leaveUnclean implement marker: a drive keeps no note of who uses it.
func (d *drive) begin() error  { return nil }
func (d *drive) unclean() bool { return false }
func (d *drive) leaveUnclean() {}

// reserve implements marker.
func (d *drive) reserve(claims []claim) {
	for len(claims) > 0 {
		zn, n := claims[0].was.sector>>d.rules.shift, 1
		for n < len(claims) && claims[n].was.sector>>d.rules.shift == zn {
			n++
		}
		d.reserveIn(zn, claims[:n])
		claims = claims[n:]
	}
}

// reserveIn is reserve for claims in one zone, if there is such a zone.
func (d *drive) reserveIn(zn uint64, claims []claim) {
	if i := int(zn); d.info.ReadOnly || zn >= uint64(len(d.zones)) || d.conventional(i) || !d.serving(i) {
		for _, c := range claims {
			c.of.failed()
		}
		return
	}
	z := &d.zones[zn]
	z.mu.Lock()
	defer z.mu.Unlock()
	d.claims.mu.Lock()
	defer d.claims.mu.Unlock()
	if d.claims.of == nil {
		d.claims.of = map[*Mark]driveClaim{}
	}
	old := z.claimed
	all := make([]driveClaim, 0, len(old)+len(claims))
	for _, c := range claims {
		n := driveClaim{zone: int(zn), from: d.rules.offset(c.was.sector)}
		n.end = n.from + c.was.sectors
		for ; len(old) > 0 && old[0].from <= n.from; old = old[1:] {
			all = append(all, old[0])
			d.claims.steps++
		}
		switch k := len(all); {
		case c.was.sectors == 0, c.was.sectors > z.capSecs, n.end > z.capSecs, !d.rules.granular(n.from << SectorShift), !d.rules.granular(n.end << SectorShift),
			k > 0 && all[k-1].end > n.from, len(old) > 0 && old[0].from < n.end: // two at one place: nobody admitted that
			c.of.failed()
			continue
		case zone.Entry(z.word.Load()).Written() >= n.end:
			c.of.done(c.was.sector)
		default:
			z.owed++
			d.claims.of[c.of] = n
		}
		all = append(all, n)
	}
	if z.claimed = append(all, old...); z.owed == 0 {
		z.claimed = nil
	}
}

// A driveClaim is where a write in flight was going: what its mark said when it was
// claimed, whatever it says by now.
type driveClaim struct {
	zone      int
	from, end uint64 // sectors from the zone's start
}

// claimed takes back what was claimed for m; false when nothing was.
func (d *drive) claimed(m *Mark) (c driveClaim, ok bool) {
	d.claims.mu.Lock()
	defer d.claims.mu.Unlock()
	c, ok = d.claims.of[m]
	delete(d.claims.of, m)
	return c, ok
}

// settleOwed takes a claim out of what zone z, whose lock is held, is kept for. With the
// last one those that have come get in line.
func (z *driveZone) settleOwed() {
	if z.owed--; z.owed > 0 {
		return
	}
	z.claimed = nil
	slices.SortFunc(z.again, func(a, b *driveRequest) int { return cmp.Compare(a.from, b.from) })
	for _, r := range slices.Backward(z.again) {
		z.line.pushFront(r.Request)
	}
	z.again = nil
}

// forgo gives up m, which was claimed and whose zone i may go on then.
func (d *drive) forgo(m *Mark, i int, lane *Lane) {
	z := &d.zones[i]
	z.mu.Lock()
	m.failed()
	z.settleOwed()
	next := d.next(z)
	z.mu.Unlock()
	d.run(next, lane)
}

// emptied implements marker. Whether the zone is empty the drive may have to be asked,
// so it is looked at when the close comes: admitManage.
func (d *drive) emptied(*Mark, uint64) {}

// wasEmptying says that r is a close which another daemon was about to make its zone
// empty with: where that is empty, r is done.
func (r *driveRequest) wasEmptying() bool {
	if r.Op != OpClose || r.Mark == nil {
		return false
	}
	was := r.Mark.load()
	return was.what == markEmptying && was.sector == r.Sector
}

// disown implements marker.
func (d *drive) disown(m *Mark) {
	if c, ok := d.claimed(m); ok {
		d.forgo(m, c.zone, nil)
	}
}

// unclaim implements marker.
func (d *drive) unclaim(m *Mark) {
	if c, ok := d.claimed(m); ok {
		z := &d.zones[c.zone]
		z.mu.Lock()
		defer z.mu.Unlock()
		z.settleOwed()
	}
}

// resume implements marker.
func (d *drive) resume(q *Request) {
	r := driveOf(q)
	switch was := r.Mark.load(); was.what {
	case markAt:
		d.readmit(r)
	case markDone:
		if !was.agrees(&d.rules, d, q) {
			d.fail(r, ErrIO)
			return
		}
		r.AppendSector = was.sector
		d.stable(r)
	case markEmptying:
		if r.Op != OpClose { // nobody marks it like that
			d.fail(r, ErrIO)
			return
		}
		d.submit(q)
	default:
		d.fail(r, ErrIO)
	}
}

// readmit puts r, a write with an address, among those that come first in its zone.
func (d *drive) readmit(r *driveRequest) {
	c, ok := d.claimed(r.Mark)
	if !ok { // it was refused
		d.fail(r, ErrIO)
		return
	}
	i, err := d.rules.write(d, r.Request)
	r.zone = int32(i)
	same := err == nil && i == c.zone && r.Bytes>>SectorShift == c.end-c.from &&
		(r.Op == OpAppend || r.Op == OpWrite && d.rules.offset(r.Sector) == c.from)
	if !same {
		d.forgo(r.Mark, c.zone, r.lane)
		d.fail(r, ErrIO) // not the request that it was: the guest has changed it in flight
		return
	}
	z := &d.zones[c.zone]
	z.mu.Lock()
	r.from, r.end, r.again = c.from, c.end, true
	z.again = append(z.again, r)
	z.settleOwed()
	next := d.next(z)
	z.mu.Unlock()
	d.run(next, r.lane)
}

// admitAgain is admit for a write that has an address, in zone z, whose lock is held
// and whose write pointer is at sector at. done says that all of it is there.
func (d *drive) admitAgain(z *driveZone, r *driveRequest, at uint64) (done bool, err error) {
	r.again = false
	switch {
	case at >= r.end:
		r.AppendSector = uint64(r.zone)<<d.rules.shift + r.from
		r.Mark.done(r.AppendSector)
		return true, nil
	case at < r.from:
		// What stood before it has failed. It was told nobody where it is.
		r.Mark.Clear()
		return false, d.admit(z, r, at)
	}
	if _, err := zone.Transition(zone.Entry(z.word.Load()).State(), zone.OnWrite, true); err != nil {
		return false, err
	}
	r.AppendSector = uint64(r.zone)<<d.rules.shift + r.from
	r.landed = at - r.from
	return false, nil
}
