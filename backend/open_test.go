package backend

import (
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
)

// Only a zoned device has a window of zones.
func TestWindowNeedsADrive(t *testing.T) {
	if _, err := Open(newPlain(t, 1<<20), disk.Options{Window: &disk.Window{First: 0, Last: 1}}); err == nil || !strings.Contains(err.Error(), "leave --zones out") {
		t.Error(err)
	}
}
