package backend

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// ZoneTarget is a state that a zone can be put into from outside.
type ZoneTarget uint8

// The targets. Conventional zones can be ToReadOnly, ToOffline and ToWritable.
const (
	ToReadOnly ZoneTarget = iota + 1
	ToOffline
	ToFull
	ToEmpty // whatever it holds is gone, as after a reset
	// ToWritable takes a zone back from read-only or offline: it is empty, closed
	// or full by its write pointer. A zone in another state stays as it is.
	ToWritable
)

var targetNames = [...]string{
	ToReadOnly: "read-only", ToOffline: "offline", ToFull: "full", ToEmpty: "empty", ToWritable: "writable",
}

func (t ZoneTarget) String() string {
	if t > 0 && int(t) < len(targetNames) {
		return targetNames[t]
	}
	return fmt.Sprintf("target(%d)", uint8(t))
}

// ParseZoneTarget reads what String writes.
func ParseZoneTarget(s string) (ZoneTarget, error) {
	for t, name := range targetNames {
		if name == s && s != "" {
			return ZoneTarget(t), nil
		}
	}
	return 0, fmt.Errorf("%q is no state that a zone can be put into: want read-only, offline, full, empty or writable", s)
}

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
