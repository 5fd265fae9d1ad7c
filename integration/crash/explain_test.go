package crash

import (
	"errors"
	"testing"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A zone that was closed is open after a kill when an append without an answer was
// under way, which may have left no data; and closed when there was none.
func TestReopenedByWhatNeverLanded(t *testing.T) {
	ok := byte(driver.StatusOK)
	write := &op{id: 1, typ: driver.TypeOut, n: 4, call: 0, ret: 2, status: ok, seen: []bool{true, true, true, true}}
	closed := &op{typ: driver.TypeZoneClose, call: 1, ret: 3, status: ok}
	hidden := &op{id: 2, typ: driver.TypeZoneAppend, n: 8, call: 4, ret: never, seen: make([]bool, 8)}
	before := &zoneView{state: driver.ZoneEmpty, sectors: make([]rig.Stamp, 16)}
	after := &zoneView{state: driver.ZoneImpOpen, written: 4, sectors: make([]rig.Stamp, 16)}
	for i := range uint64(4) {
		after.sectors[i] = rig.Stamp{ID: 1, Index: i}
	}
	spec := zoneSpec{capacity: 16}
	if err := explain(spec, before, after, []*op{write, closed, hidden}); err != nil {
		t.Error(err)
	}
	if err := explain(spec, before, after, []*op{write, closed}); !errors.Is(err, errNoOrder) {
		t.Errorf("open again by nothing: %v", err)
	}
	after.state = driver.ZoneClosed
	for _, ops := range [][]*op{{write, closed}, {write, closed, hidden}} {
		if err := explain(spec, before, after, ops); err != nil {
			t.Error(err)
		}
	}
}

// Who opens a closed zone again leaves it open: a write with an answer, and one without
// that another was refused for.
func TestReopenedStaysOpen(t *testing.T) {
	ok := byte(driver.StatusOK)
	seen := []bool{true, true, true, true}
	write := &op{id: 1, typ: driver.TypeOut, n: 4, call: 0, ret: 2, status: ok, seen: seen}
	closed := &op{typ: driver.TypeZoneClose, call: 1, ret: 3, status: ok}
	again := &op{id: 2, typ: driver.TypeZoneAppend, at: 4, n: 4, call: 4, ret: 5, status: ok, seen: seen}
	hidden := &op{id: 3, typ: driver.TypeZoneAppend, n: 12, call: 4, ret: never, seen: make([]bool, 12)}
	refused := &op{id: 4, typ: driver.TypeZoneAppend, n: 1, call: 6, ret: 7, status: driver.StatusZoneInvalidCmd, seen: make([]bool, 1)}
	sectors := make([]rig.Stamp, 16)
	for i := range uint64(8) {
		sectors[i] = rig.Stamp{ID: 1 + i/4, Index: i % 4}
	}
	before, spec := &zoneView{state: driver.ZoneEmpty, sectors: make([]rig.Stamp, 16)}, zoneSpec{capacity: 16}
	for _, c := range []struct {
		ops     []*op
		written uint64
	}{
		{[]*op{write, closed, again}, 8},
		{[]*op{write, closed, hidden, refused}, 4},
	} {
		after := &zoneView{state: driver.ZoneImpOpen, written: c.written, sectors: make([]rig.Stamp, 16)}
		copy(after.sectors, sectors[:c.written])
		if err := explain(spec, before, after, c.ops); err != nil {
			t.Error(err)
		}
		after.state = driver.ZoneClosed
		if err := explain(spec, before, after, c.ops); !errors.Is(err, errNoOrder) {
			t.Errorf("closed by nobody: %v", err)
		}
		if err := explain(zoneSpec{capacity: 16, maxOpen: true}, before, after, c.ops); err != nil {
			t.Errorf("closed by the device: %v", err)
		}
	}
}
