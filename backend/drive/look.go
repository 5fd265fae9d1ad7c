package drive

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/plant"
)

// Only the drive knows what its zones are. It is asked after I/O that failed,
// before I/O on a zone that could not be asked about then, and for reports.

// look asks the drive about zones [from, to), and goes on with step.
func (d *Drive) look(r *request, next step, from, to int) {
	r.step, r.zone, r.to = next, int32(from), int32(to)
	r.copied = disk.NewBounce(uint64(engine.ZoneReportBytes + (to-from)*engine.ZoneBytes))
	r.IO.Code, r.IO.FD, r.IO.Off, r.IO.Iov = engine.ZoneReport, int(d.f.Fd()), d.offset(uint64(from)<<d.rules.Shift), r.copied.Vec[:]
	r.IO.Len = int64(len(r.copied.Data))
	r.StartIO()
}

// seen returns what look has found.
func (d *Drive) seen(r *request) ([]kernelZone, error) {
	b := r.copied
	r.copied = nil
	defer b.Free()
	if r.IO.Err != nil {
		return nil, r.IO.Err
	}
	zones, err := decodeZones(b.Data)
	if err != nil {
		return nil, err
	}
	if n := int(r.to - r.zone); len(zones) != n {
		return nil, fmt.Errorf("the kernel reports %d zones and not %d", len(zones), n)
	}
	for n := range zones {
		i, k := int(r.zone)+n, &zones[n]
		if z := &d.zones[i]; k.start != d.first+uint64(i)<<d.rules.Shift || k.typ != z.typ || k.length != z.sectors {
			return nil, fmt.Errorf("the zone at sector %d of the drive is another one than when it was opened; restart zvhost", k.start)
		}
	}
	return zones, nil
}

// learnLocked takes over what the drive says of zone i, whose lock is held. Zones out
// of service have no write pointer to go by, and of a full one it is known here
// how much was written before it was finished.
func (d *Drive) learnLocked(i int, k *kernelZone) {
	z, was, now := &d.zones[i], d.Entry(i), k.entry(i)
	if s := k.state; s == zone.ReadOnly || s == zone.Offline || s == zone.Full && was.State() == zone.Full {
		now = zone.Pack(i, s, was.Written())
	}
	z.word.Store(uint64(now))
	z.stale = false
}

// reread goes on when the drive has been asked about the zones that r has to
// itself: after I/O of r that failed, or before r can begin.
func (d *Drive) reread(r *request) {
	zones, err := d.seen(r)
	for i := int(r.zone); i < int(r.to); i++ {
		z := &d.zones[i]
		z.mu.Lock()
		if err != nil {
			z.stale = true
		} else {
			d.learnLocked(i, &zones[i-int(r.zone)])
		}
		z.mu.Unlock()
	}
	z := &d.zones[r.zone]
	switch {
	case r.cause == nil && err != nil:
		d.settle(r, func(*request) error { return sentinelOf(err) })
	case r.cause == nil: // now it can begin
		lane := r.Lane
		z.mu.Lock()
		d.occupyLocked(z, false)
		z.line.PushFront(r.Request)
		next := d.nextLocked(z)
		z.mu.Unlock()
		d.run(next, lane)
	case r.Op == disk.OpResetAll:
		d.resetRunFailed(r)
	default:
		landed := landedIn(zone.Entry(z.word.Load()), r.tried)
		d.settle(r, func(m *request) error {
			if (m.Op == disk.OpWrite || m.Op == disk.OpAppend) && err == nil && !m.Stable && z.typ != zone.Conventional && m.end <= landed || plant.Merged && m != r {
				return nil
			}
			return d.verdict(m.Op, m.zone, r.cause)
		})
	}
}

// landedIn says up to which sector of its zone, which is w now, a write that failed
// has landed. It goes by the write pointer, but for one that has come all the way:
// some drives move it whatever becomes of the data (QEMU's NVMe drive does), so
// then it does not say what has failed.
func landedIn(w zone.Entry, tried [2]uint64) uint64 {
	switch at := w.Written(); {
	case w.State() == zone.ReadOnly || w.State() == zone.Offline:
		return 0
	case at < tried[1]:
		return at
	}
	return tried[0]
}

// verdict is the error of a request that failed with cause, now that its zone
// has been looked at: one that turned read-only or offline says so, but for reads,
// which a read-only zone allows.
func (d *Drive) verdict(op disk.Op, zn int32, cause error) error {
	if s := d.Entry(int(zn)).State(); s == zone.ReadOnly && op != disk.OpRead || s == zone.Offline {
		return fmt.Errorf("%w: the zone is %v by now: %w", zone.ErrInvalid, s, cause)
	}
	return sentinelOf(cause)
}

// examine looks, after a read that failed with err, whether its zone is offline
// by now.
func (d *Drive) examine(r *request, err error) {
	r.cause = err
	i := int(r.Sector >> d.rules.Shift)
	d.ask(r, i, i+1)
}

// report brings what ReportZone says up to date, for r.Bytes zones from r.Sector
// on: drives close open zones by themselves, and zones fail.
func (d *Drive) report(r *request) {
	from := int(r.Sector >> d.rules.Shift)
	to := from + int(r.Bytes)
	if r.Sector >= d.info.CapacitySectors || to <= from || to > len(d.zones) {
		d.fail(r, zone.ErrInvalid)
		return
	}
	r.cause = nil
	d.reportFrom(r, from)
}

// zonesAtATime is how many zones are looked at at a time for a report: a guest can
// ask for all zones of a drive, in many requests at once.
const zonesAtATime = (disk.BounceBytes - engine.ZoneReportBytes) / engine.ZoneBytes

// reportFrom looks at zone from and those behind it.
func (d *Drive) reportFrom(r *request, from int) {
	if r.step, r.zone = stepReport, int32(from); r.Borrow() {
		d.ask(r, from, min(from+zonesAtATime, int(r.Sector>>d.rules.Shift+r.Bytes)))
	}
}

// ask looks at zones that may be at work.
func (d *Drive) ask(r *request, from, to int) {
	r.asked = d.asked.Add(1)
	d.look(r, stepReported, from, to)
}

// reported takes over what ask has found, but for zones that have been at work
// since: what they are is known better than by the drive's answer, which may be
// from before or in between. That they fail is news all the same.
func (d *Drive) reported(r *request) {
	zones, err := d.seen(r)
	for n := range zones {
		i, k := int(r.zone)+n, &zones[n]
		z := &d.zones[i]
		z.mu.Lock()
		w := d.Entry(i)
		switch {
		case !z.busy && z.since < r.asked:
			d.learnLocked(i, k)
		case (k.state == zone.ReadOnly || k.state == zone.Offline) && k.state != w.State():
			z.word.Store(uint64(zone.Pack(i, k.state, w.Written())))
		}
		z.mu.Unlock()
	}
	if r.Op != disk.OpReport {
		d.fail(r, d.verdict(r.Op, r.zone, r.cause))
		return
	}
	r.Repay()
	if err == nil && uint64(r.to) < r.Sector>>d.rules.Shift+r.Bytes {
		d.reportFrom(r, int(r.to))
		return
	}
	d.end(r, err)
}
