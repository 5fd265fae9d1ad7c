package zone

import "fmt"

// Type is the type of a zone, numbered as VIRTIO_BLK_ZT_* is.
type Type uint8

// The zone types that a host-managed disk has.
const (
	Conventional            Type = 1
	SequentialWriteRequired Type = 2
)

// State is the state of a zone, numbered as VIRTIO_BLK_ZS_* is.
type State uint8

// The zone states.
const (
	NotWP    State = 0 // conventional: no write pointer
	Empty    State = 1
	ImpOpen  State = 2 // opened by a write
	ExpOpen  State = 3 // opened by an open request
	Closed   State = 4
	ReadOnly State = 13
	Full     State = 14
	Offline  State = 15
)

var zoneStateNames = [16]string{
	NotWP: "not-wp", Empty: "empty", ImpOpen: "imp-open", ExpOpen: "exp-open", Closed: "closed",
	ReadOnly: "read-only", Full: "full", Offline: "offline",
}

func (s State) String() string {
	if s.Valid() {
		return zoneStateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Valid says whether s is a zone state of the specification.
func (s State) Valid() bool { return s < 16 && zoneStateNames[s] != "" }

// IsOpen says whether a zone in state s holds an open resource.
func (s State) IsOpen() bool { return s == ImpOpen || s == ExpOpen }

// IsActive says whether a zone in state s holds an active resource.
func (s State) IsActive() bool { return s.IsOpen() || s == Closed }

// A Descriptor is what a report says of one zone. All numbers are sectors, Start and WP
// counted from the start of the disk. WP is where the next write goes; it is
// the zone's start for a conventional or offline zone and its end for a full
// one, where the specification leaves it undefined.
type Descriptor struct {
	Start, Length, Capacity, WP uint64
	Type                        Type
	State                       State
}

// Event is what can happen to a zone.
type Event uint8

const (
	OnWrite  Event = iota // a write or append of more than nothing is admitted
	OnFilled              // the last sector of the capacity is written
	OnOpen
	OnClose
	OnFinish
	OnReset
)

// Transition returns the state that a sequential zone in state s takes on ev,
// or ErrInvalid where the specification has no such transition. started
// says whether anything has been written to the zone. It knows no resource
// limits: those are Resources.Move's.
func Transition(s State, ev Event, started bool) (State, error) {
	switch ev {
	case OnWrite:
		switch s {
		case Empty, Closed:
			return ImpOpen, nil
		case ImpOpen, ExpOpen:
			return s, nil
		}
	case OnFilled:
		switch s {
		case ImpOpen, ExpOpen, Closed: // closed by the device while the write was under way
			return Full, nil
		}
	case OnOpen:
		switch s {
		case Empty, ImpOpen, ExpOpen, Closed:
			return ExpOpen, nil
		}
	case OnClose:
		switch {
		case s == Closed:
			return Closed, nil
		case s.IsOpen() && !started:
			return Empty, nil
		case s.IsOpen():
			return Closed, nil
		}
	case OnFinish:
		switch s {
		case Empty, ImpOpen, ExpOpen, Closed, Full:
			return Full, nil
		}
	case OnReset:
		switch s {
		case Empty, ImpOpen, ExpOpen, Closed, Full:
			return Empty, nil
		}
	}
	return s, ErrInvalid
}
