package backend

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
)

// SetZoneStates puts zones of a zoned disk into a state, one after the other,
// whether guests use the disk or not. Each waits for its zone's writes in flight;
// what guests send later meets the new state. A write to a conventional zone that
// is in flight may still land. When SetZoneStates returns nil all of it is
// durable. An error names the zone that it is about; those before it are set.
// Any goroutine may call it, until Close.
func SetZoneStates(d disk.Disk, zones []int, to ZoneTarget) (err error) {
	z := d.Info().Zoned
	switch {
	case z == nil:
		return errors.New("the disk is an ordinary one: it has no zones")
	case d.Info().ReadOnly:
		return errors.New("the disk is served read-only: its zones cannot be set")
	case z.Moves:
		return errors.New("a real drive sets its zones itself: this can be done to images only")
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // LiveTable.Store of an image
	lane, err := disk.NewLane(func(wake func()) (engine.Engine, error) { return engine.NewThreads(1, wake), nil })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lane.Close()) }()
	for _, i := range zones {
		if i < 0 || i >= z.Zones {
			err = fmt.Errorf("zone %d: the disk has zones 0 to %d", i, z.Zones-1)
		} else {
			err = lane.CarryOut(d, setStateRequest(uint64(i)*z.ZoneSectors, to))
		}
		if err != nil {
			err = fmt.Errorf("zone %d cannot be made %v: %w", i, to, disk.CauseOf(err))
			break
		}
	}
	// In one go: a sync for each zone of a large disk would take minutes.
	return errors.Join(err, disk.CauseOf(lane.CarryOut(d, &disk.Request{Op: disk.OpCommit})))
}

// setStateRequest is the request that puts the zone at sector into a state.
func setStateRequest(sector uint64, to ZoneTarget) *disk.Request {
	r := &disk.Request{Op: disk.OpSetState, Sector: sector}
	zonedOf(r).to = to
	return r
}

// setState carries out disk.OpSetState: in the zone's line, as all that excludes its
// writes.
func (d *zoned) setState(r *zonedRequest) {
	if d.broken.Load() {
		d.fail(r, errTable)
		return
	}
	i := int(r.Sector >> d.shift)
	r.zone = int32(i)
	z := &d.zones[i]
	z.mu.Lock()
	if z.wait.Head != nil || !z.flying.emptyLocked() {
		d.queueLocked(z, r)
		z.mu.Unlock()
		return
	}
	err := d.putLocked(z, i, r.to)
	z.mu.Unlock()
	if err != nil {
		err = d.errorOf(r, err)
	}
	r.Finish(err)
}
