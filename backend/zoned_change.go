package backend

import (
	"errors"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/failpoint"
)

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
		if z.gate.closeForResetLocked() {
			d.com.reset(i)
		}
	}
	if !d.publishLocked(z, i) {
		return errTable
	}
	return nil
}

// putLocked moves zone z, whose lock is held and which has no writes in flight, to a
// state that no guest can always ask for.
func (d *zoned) putLocked(z *seqZone, i int, target ZoneTarget) error {
	if d.img.Conventional(i) {
		return d.putConventionalLocked(z, i, target)
	}
	to := z.state
	switch target {
	case ToReadOnly:
		to = zone.ReadOnly
	case ToOffline:
		to = zone.Offline
	case ToFull:
		to = zone.Full
	case ToEmpty:
		to = zone.Empty
	case ToWritable:
		if z.state == zone.ReadOnly || z.state == zone.Offline {
			to = d.img.ReturnState(i, z.done)
		}
	}
	return d.placeLocked(z, i, to, target == ToEmpty)
}

var errConventional = errors.New("it is conventional: it can be read-only, offline or writable")

func (d *zoned) putConventionalLocked(z *seqZone, i int, target ZoneTarget) error {
	to, ok := map[ZoneTarget]zone.State{ToReadOnly: zone.ReadOnly, ToOffline: zone.Offline, ToWritable: zone.NotWP}[target]
	if !ok {
		return errConventional
	}
	return d.placeLocked(z, i, to, false)
}
