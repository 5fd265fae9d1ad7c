package backend

import "fmt"

// This file is the zone state machine of the virtio specification ("Block
// Device / Device Operation", the zone states and their transitions), pure: no
// I/O, no clock, no locks. zoned_posix.go runs it.

// ZoneType is the type of a zone, numbered as VIRTIO_BLK_ZT_* is.
type ZoneType uint8

// The zone types that a host-managed disk has.
const (
	ZoneConventional     ZoneType = 1
	ZoneSeqWriteRequired ZoneType = 2
)

// ZoneState is the state of a zone, numbered as VIRTIO_BLK_ZS_* is.
type ZoneState uint8

// The zone states.
const (
	NotWP    ZoneState = 0 // conventional: no write pointer
	Empty    ZoneState = 1
	ImpOpen  ZoneState = 2 // opened by a write
	ExpOpen  ZoneState = 3 // opened by an open request
	Closed   ZoneState = 4
	ReadOnly ZoneState = 13
	Full     ZoneState = 14
	Offline  ZoneState = 15
)

var zoneStateNames = [16]string{
	NotWP: "not-wp", Empty: "empty", ImpOpen: "imp-open", ExpOpen: "exp-open", Closed: "closed",
	ReadOnly: "read-only", Full: "full", Offline: "offline",
}

func (s ZoneState) String() string {
	if s.valid() {
		return zoneStateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

func (s ZoneState) valid() bool { return s < 16 && zoneStateNames[s] != "" }

// isOpen says whether a zone in state s holds an open resource.
func (s ZoneState) isOpen() bool { return s == ImpOpen || s == ExpOpen }

// isActive says whether a zone in state s holds an active resource.
func (s ZoneState) isActive() bool { return s.isOpen() || s == Closed }

// Zone is what a report says of one zone. All numbers are sectors, Start and WP
// counted from the start of the disk. WP is where the next write goes; it is
// the zone's start for a conventional or offline zone and its end for a full
// one, where the specification leaves it undefined.
type Zone struct {
	Start, Length, Capacity, WP uint64
	Type                        ZoneType
	State                       ZoneState
}

// event is what can happen to a zone.
type event uint8

const (
	evWrite  event = iota // a write or append of more than nothing is admitted
	evFilled              // the last sector of the capacity is written
	evOpen
	evClose
	evFinish
	evReset
)

// transition returns the state that a sequential zone in state s takes on ev,
// or ErrZoneInvalid where the specification has no such transition. started
// says whether anything has been written to the zone. It knows no resource
// limits: those are resources.move's.
func transition(s ZoneState, ev event, started bool) (ZoneState, error) {
	switch ev {
	case evWrite:
		switch s {
		case Empty, Closed:
			return ImpOpen, nil
		case ImpOpen, ExpOpen:
			return s, nil
		}
	case evFilled:
		switch s {
		case ImpOpen, ExpOpen, Closed: // closed by the device while the write was under way
			return Full, nil
		}
	case evOpen:
		switch s {
		case Empty, ImpOpen, ExpOpen, Closed:
			return ExpOpen, nil
		}
	case evClose:
		switch {
		case s == Closed:
			return Closed, nil
		case s.isOpen() && !started:
			return Empty, nil
		case s.isOpen():
			return Closed, nil
		}
	case evFinish:
		switch s {
		case Empty, ImpOpen, ExpOpen, Closed, Full:
			return Full, nil
		}
	case evReset:
		switch s {
		case Empty, ImpOpen, ExpOpen, Closed, Full:
			return Empty, nil
		}
	}
	return s, ErrZoneInvalid
}

// resources counts the open and active zones against the disk's limits, a limit
// of zero meaning none.
type resources struct {
	maxOpen, maxActive uint32
	open, active       uint32
}

// move accounts for a zone that goes from one state to another. It fails, with
// nothing changed, with ErrActiveResource or ErrOpenResource; when both limits
// stand in the way it is ErrActiveResource, as the specification has it.
func (r *resources) move(from, to ZoneState) error {
	wantOpen := to.isOpen() && !from.isOpen()
	wantActive := to.isActive() && !from.isActive()
	if wantActive && r.maxActive != 0 && r.active >= r.maxActive {
		return ErrActiveResource
	}
	if wantOpen && r.maxOpen != 0 && r.open >= r.maxOpen {
		return ErrOpenResource
	}
	switch {
	case wantOpen:
		r.open++
	case from.isOpen() && !to.isOpen():
		r.open--
	}
	switch {
	case wantActive:
		r.active++
	case from.isActive() && !to.isActive():
		r.active--
	}
	return nil
}
