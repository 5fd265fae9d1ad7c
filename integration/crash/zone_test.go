package crash

import (
	"fmt"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/virtio/driver"
)

// An op is one request as the client saw it, or what a reset of all zones was
// for one of them. Stamps are positions in the history of all requests.
type op struct {
	id     uint64 // 0 for what carries no data
	typ    uint32 // driver.TypeOut and so on
	zone   int    // -1: all zones
	at     uint64 // sector from the zone's start: asked for, or told, or found afterwards
	n      uint64 // sectors
	call   int    // stamp of when it was offered
	ret    int    // stamp of its answer; never: none came
	status byte

	seen []bool // after a kill: which of its sectors stand in the zone
}

const never = int(^uint(0) >> 1)

func (o *op) answered() bool { return o.ret != never }

// hasData says whether it moves the write pointer.
func (o *op) hasData() bool { return o.typ == driver.TypeOut || o.typ == driver.TypeZoneAppend }

// visible says that its data, or some of it, stands in the zone.
func (o *op) visible() bool {
	for _, s := range o.seen {
		if s {
			return true
		}
	}
	return false
}

// whole says that all of its data stands in the zone.
func (o *op) whole() bool {
	for _, s := range o.seen {
		if !s {
			return false
		}
	}
	return len(o.seen) > 0
}

func (o *op) String() string {
	name := map[uint32]string{
		driver.TypeOut: "write", driver.TypeZoneAppend: "append", driver.TypeZoneOpen: "open", driver.TypeZoneClose: "close",
		driver.TypeZoneFinish: "finish", driver.TypeZoneReset: "reset", driver.TypeZoneResetAll: "reset all", driver.TypeSecureErase: "erase",
	}[o.typ]
	s := fmt.Sprintf("[%d] %s", o.call, name)
	if o.hasData() {
		s += fmt.Sprintf(" %d of %d sectors", o.id, o.n)
		if o.typ == driver.TypeOut || o.answered() && o.status == driver.StatusOK {
			s += fmt.Sprintf(" at %d", o.at)
		}
	}
	if !o.answered() {
		return s + ": no answer"
	}
	return s + fmt.Sprintf(": %s [%d]", driver.StatusString(o.status), o.ret)
}

// A zoneSpec is what one sequential zone is like.
type zoneSpec struct {
	capacity uint64 // sectors
	// Limits that the disk has: with the first the device may close an implicitly
	// open zone whenever it likes, and refusals for want of resources are lawful.
	maxOpen, maxActive bool
}

// A zoneView is what a zone looks like at one moment. For a conventional zone
// written is its length.
type zoneView struct {
	state   uint8
	written uint64      // sectors, also of a full zone
	sectors []rig.Stamp // all of the zone
}

// A model is a zone between two requests: the specification's states, and
// where the next write goes. A full zone is one that was finished, or that was
// full at the beginning; one that writes have filled up keeps its open state
// here, for it becomes full only when all of them have landed.
type model struct {
	state uint8
	next  uint64 // sectors
}

// try carries out o on m, and says whether its answer was lawful, and whether
// it changed anything. Of a request without an answer it says whether it could
// have been carried out.
func (m model) try(o *op, z *zoneSpec) (after model, lawful, effect bool) {
	full := m.state == driver.ZoneFull
	filled := m.next == z.capacity && !full
	after = m
	if o.answered() && o.status != driver.StatusOK {
		return m, m.refuses(o, z, full, filled), false
	}
	switch o.typ {
	case driver.TypeOut, driver.TypeZoneAppend:
		known := o.typ == driver.TypeOut || o.answered() || o.visible()
		if full || known && o.at != m.next || m.next+o.n > z.capacity {
			return m, false, false
		}
		after.next += o.n
		if m.state != driver.ZoneExpOpen {
			after.state = driver.ZoneImpOpen
		}
	case driver.TypeZoneOpen:
		if full {
			return m, false, false
		}
		after.state = driver.ZoneExpOpen
	case driver.TypeZoneClose:
		switch {
		case full || m.state == driver.ZoneEmpty:
			return m, false, false
		case m.next == 0:
			after.state = driver.ZoneEmpty
		default:
			after.state = driver.ZoneClosed
		}
	case driver.TypeZoneFinish:
		after.state = driver.ZoneFull
	case driver.TypeZoneReset, driver.TypeZoneResetAll, driver.TypeSecureErase:
		after = model{state: driver.ZoneEmpty}
	}
	return after, true, true
}

// refuses says whether the zone may answer o with the error that it did.
func (m model) refuses(o *op, z *zoneSpec, full, filled bool) bool {
	needsOpen := (o.hasData() || o.typ == driver.TypeZoneOpen) && !full && m.state != driver.ZoneExpOpen
	switch o.status {
	case driver.StatusZoneInvalidCmd:
		switch o.typ {
		case driver.TypeOut:
			return full || filled || o.at == m.next && m.next+o.n > z.capacity
		case driver.TypeZoneAppend:
			return full || m.next+o.n > z.capacity
		case driver.TypeZoneOpen:
			return full || filled
		case driver.TypeZoneClose:
			return full || filled || m.state == driver.ZoneEmpty
		}
	case driver.StatusZoneUnalignedWP:
		return o.typ == driver.TypeOut && !full && o.at != m.next
	case driver.StatusZoneOpenResource: // an implicitly open zone may have been closed
		return z.maxOpen && needsOpen
	case driver.StatusZoneActiveResource:
		return z.maxActive && needsOpen && m.state == driver.ZoneEmpty
	}
	return false
}
