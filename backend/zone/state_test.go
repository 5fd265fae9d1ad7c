package zone

import (
	"errors"
	"fmt"
	"testing"
)

// states are all that a zone can be in.
var states = []State{NotWP, Empty, ImpOpen, ExpOpen, Closed, ReadOnly, Full, Offline}

// Every state and every event, with the sentence of virtio ("Block Device /
// Device Operation") that decides. What is not listed is refused: "If the
// transition to this state can not be performed, the request MUST be completed
// with VIRTIO_BLK_S_ZONE_INVALID_CMD".
func TestTransitions(t *testing.T) {
	type key struct {
		from    State
		ev      Event
		started bool
	}
	want := make(map[key]State)
	allow := func(from State, ev Event, to State) {
		want[key{from, ev, false}], want[key{from, ev, true}] = to, to
	}

	// "Upon receiving a VIRTIO_BLK_T_ZONE_APPEND request or a VIRTIO_BLK_T_OUT
	// request issued to a SWR zone in VIRTIO_BLK_ZS_EMPTY or VIRTIO_BLK_ZS_CLOSED
	// state, the device attempts to perform the transition of the zone to
	// VIRTIO_BLK_ZS_IOPEN state before writing data."
	allow(Empty, OnWrite, ImpOpen)
	allow(Closed, OnWrite, ImpOpen)
	// "Zones in VIRTIO_BLK_ZS_EMPTY (Empty), VIRTIO_BLK_ZS_IOPEN (Implicitly Open),
	// VIRTIO_BLK_ZS_EOPEN (Explicitly Open) and VIRTIO_BLK_ZS_CLOSED (Closed) state
	// are writable, but zones in VIRTIO_BLK_ZS_RDONLY (Read-Only),
	// VIRTIO_BLK_ZS_FULL (Full) and VIRTIO_BLK_ZS_OFFLINE (Offline) state are not."
	allow(ImpOpen, OnWrite, ImpOpen)
	allow(ExpOpen, OnWrite, ExpOpen)

	// "VIRTIO_BLK_ZS_FULL when a successful VIRTIO_BLK_T_OUT or
	// VIRTIO_BLK_T_ZONE_APPEND request that causes the zone to reach its writable
	// capacity is received for the zone" (from either open state); an implicitly
	// open zone may have been closed by the device meanwhile.
	allow(ImpOpen, OnFilled, Full)
	allow(ExpOpen, OnFilled, Full)
	allow(Closed, OnFilled, Full)

	// "VIRTIO_BLK_ZS_EOPEN when a successful VIRTIO_BLK_T_ZONE_OPEN request is
	// received for the zone" (from Empty, Implicitly Open, Closed); "When a
	// VIRTIO_BLK_T_ZONE_EOPEN request is issued to an Explicitly Open zone, the
	// request is completed successfully".
	allow(Empty, OnOpen, ExpOpen)
	allow(ImpOpen, OnOpen, ExpOpen)
	allow(ExpOpen, OnOpen, ExpOpen)
	allow(Closed, OnOpen, ExpOpen)

	// "VIRTIO_BLK_ZS_EMPTY when a successful VIRTIO_BLK_T_ZONE_CLOSE request is
	// received for the zone and the write pointer of the zone has the value equal
	// to the start sector of the zone", "VIRTIO_BLK_ZS_CLOSED [...] and the zone
	// write pointer is larger then the start sector of the zone". An implicitly
	// open zone whose pointer stands at its start is one whose first write is
	// still to land or has failed.
	for _, open := range []State{ImpOpen, ExpOpen} {
		want[key{open, OnClose, true}] = Closed
		want[key{open, OnClose, false}] = Empty
	}
	// "When a VIRTIO_BLK_T_ZONE_CLOSE request is issued to a Closed zone, the
	// request is completed successfully".
	allow(Closed, OnClose, Closed)

	// "VIRTIO_BLK_ZS_FULL when a successful VIRTIO_BLK_T_ZONE_FINISH request is
	// received for the zone" (from either open state); "When a
	// VIRTIO_BLK_T_ZONE_FINISH request is issued to a Full zone, the request is
	// completed successfully". For Empty and Closed zones the specification names
	// no transition and forbids none; ZBC and NVMe ZNS have both, Linux' zonefs
	// and null_blk count on them.
	for _, from := range []State{Empty, ImpOpen, ExpOpen, Closed, Full} {
		allow(from, OnFinish, Full)
	}

	// "VIRTIO_BLK_ZS_EMPTY when a successful VIRTIO_BLK_T_ZONE_RESET request is
	// received for the zone" (from both open states, Closed and Full); "When a
	// VIRTIO_BLK_T_ZONE_RESET request is issued to an Empty zone, the request is
	// completed successfully".
	for _, from := range []State{Empty, ImpOpen, ExpOpen, Closed, Full} {
		allow(from, OnReset, Empty)
	}

	cases := 0
	for _, from := range states {
		for ev := OnWrite; ev <= OnReset; ev++ {
			for _, started := range []bool{false, true} {
				cases++
				got, err := Transition(from, ev, started)
				to, ok := want[key{from, ev, started}]
				switch {
				case !ok && (err != ErrInvalid || got != from):
					t.Errorf("%v, event %d, started %v: got %v, %v, want it refused", from, ev, started, got, err)
				case ok && (err != nil || got != to):
					t.Errorf("%v, event %d, started %v: got %v, %v, want %v", from, ev, started, got, err, to)
				}
			}
		}
	}
	if cases != 8*6*2 {
		t.Errorf("%d cases", cases)
	}
}

// Every way from one state to another, with each limit reached or not: "a zone
// in VIRTIO_BLK_ZS_IOPEN and VIRTIO_BLK_ZS_EOPEN state consumes one open zone
// resource", "a zone in VIRTIO_BLK_ZS_IOPEN, VIRTIO_BLK_ZS_EOPEN and
// VIRTIO_BLK_ZS_CLOSED state consumes one active resource", and "a zone
// transition request that leads to both the max_open_zones and the
// max_active_zones limits to be exceeded is terminated by the device with
// VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE".
func TestResources(t *testing.T) {
	open := map[State]int{ImpOpen: 1, ExpOpen: 1}
	active := map[State]int{ImpOpen: 1, ExpOpen: 1, Closed: 1}
	for _, from := range states {
		for _, to := range states {
			for _, limits := range [][2]uint32{{0, 0}, {5, 0}, {0, 7}, {5, 7}, {6, 7}, {5, 8}, {6, 8}} {
				r := Resources{MaxOpen: limits[0], MaxActive: limits[1], Open: 5, Active: 7}
				dOpen, dActive := open[to]-open[from], active[to]-active[from]
				var want error
				switch {
				case dActive > 0 && limits[1] == 7:
					want = ErrActiveLimit
				case dOpen > 0 && limits[0] == 5:
					want = ErrOpenLimit
				}
				err := r.Move(from, to)
				wantOpen, wantActive := 5, 7
				if want == nil {
					wantOpen, wantActive = 5+dOpen, 7+dActive
				}
				if !errors.Is(err, want) || int(r.Open) != wantOpen || int(r.Active) != wantActive {
					t.Errorf("%v to %v with limits %v: got %v, %d open, %d active; want %v, %d, %d",
						from, to, limits, err, r.Open, r.Active, want, wantOpen, wantActive)
				}
			}
		}
	}
}

func TestNames(t *testing.T) {
	// The numbers are virtio's (VIRTIO_BLK_ZS_*, VIRTIO_BLK_ZT_*).
	for s, want := range map[State]struct {
		n    int
		name string
	}{
		NotWP: {0, "not-wp"}, Empty: {1, "empty"}, ImpOpen: {2, "imp-open"}, ExpOpen: {3, "exp-open"},
		Closed: {4, "closed"}, ReadOnly: {13, "read-only"}, Full: {14, "full"}, Offline: {15, "offline"},
	} {
		if int(s) != want.n || s.String() != want.name {
			t.Errorf("state %d is called %v, want %d and %q", s, s, want.n, want.name)
		}
	}
	if Conventional != 1 || SequentialWriteRequired != 2 {
		t.Error("zone types are not numbered as virtio has them")
	}
	if got := fmt.Sprint(State(7)); got != "state(7)" {
		t.Error(got)
	}
}
