package device

import (
	"os"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/zone"
)

// A daemon goes on with an ordinary disk that has grown since, whether the guest was
// told or not; with one that has shrunk, or is zoned otherwise, it does not.
func TestGrownDiskIsTheSame(t *testing.T) {
	r := plainRig(t, 1)
	is, choices := r.dev.State()
	r.close()
	for _, c := range []struct {
		bytes int64
		want  string
	}{
		{1 << 20, ""}, {5 << 20, ""}, {1 << 19, "not the one that the guest was shown"},
	} {
		if err := os.Truncate(r.path, c.bytes); err != nil {
			t.Fatal(err)
		}
		next := newRig(t, r.path, 1)
		err := next.dev.Restore(is, choices)
		next.close()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d bytes: %v", c.bytes, err)
		}
	}
	zoned := zonedRig(t, smallZones, 1)
	larger := smallZones
	larger.CapacitySectors += 128
	if err := zonedRig(t, larger, 1).dev.Restore(zoned.dev.State()); err == nil {
		t.Error("a zoned disk with another zone is taken for the same")
	}
	if err := zonedRig(t, smallZones, 1).dev.Restore(zoned.dev.State()); err != nil {
		t.Error(err)
	}
	if err := zonedRig(t, zone.Geometry{CapacitySectors: 2048, ZoneSectors: 128}, 1).dev.Restore(is, choices); err == nil {
		t.Error("a zoned disk is taken for an ordinary one")
	}
}
