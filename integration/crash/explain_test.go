package crash

import (
	"errors"
	"testing"

	"github.com/zvhost/zvhost/virtio/driver"
)

// A zone that was closed is open after a kill when an append without an answer was
// under way, which may have left no data; and closed when there was none.
func TestReopenedByWhatNeverLanded(t *testing.T) {
	ok := byte(driver.StatusOK)
	write := &op{id: 1, typ: driver.TypeOut, n: 4, call: 0, ret: 2, status: ok, seen: []bool{true, true, true, true}}
	closed := &op{typ: driver.TypeZoneClose, call: 1, ret: 3, status: ok}
	hidden := &op{id: 2, typ: driver.TypeZoneAppend, n: 8, call: 4, ret: never, seen: make([]bool, 8)}
	before := &zoneView{state: driver.ZoneEmpty, sectors: make([]stamp, 16)}
	after := &zoneView{state: driver.ZoneImpOpen, written: 4, sectors: make([]stamp, 16)}
	for i := range uint64(4) {
		after.sectors[i] = stamp{1, i}
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
