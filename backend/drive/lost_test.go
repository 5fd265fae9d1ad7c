package drive

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A drive of which a sync has failed does not close in good order: the kernel tells of
// lost data once.
func TestClosesLost(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "drive"))
	if err != nil {
		t.Fatal(err)
	}
	d := &Drive{f: f, path: "drive"}
	lost := error(unix.EIO)
	d.lost.Store(&lost)
	if err := d.Close(); err == nil || !strings.Contains(err.Error(), "earlier sync failed") {
		t.Errorf("closed with %v", err)
	}
}
