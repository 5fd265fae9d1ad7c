package crash

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A daemon that dies in the middle of one request leaves the zone to the next one in
// the state that the request would have left it in.
func TestStateOutlivesTheDaemon(t *testing.T) {
	binary := build(t, "zvhost_failpoints")
	block := make([]byte, sectorBytes)
	appendBlock := func(q *frontend.Queue) error {
		_, err := q.Append(block, 0)
		return err
	}
	manage := func(typ uint32) func(q *frontend.Queue) error {
		return func(q *frontend.Queue) error { return q.Zone(typ, 0) }
	}
	for _, c := range []struct {
		what    string
		before  []func(q *frontend.Queue) error
		point   failpoint.Point
		last    func(q *frontend.Queue) error
		state   uint8
		written uint64 // sectors
	}{
		{
			"an append opens a closed zone again",
			[]func(q *frontend.Queue) error{appendBlock, manage(driver.TypeZoneClose)},
			failpoint.Admit, appendBlock, driver.ZoneImpOpen, 2,
		},
		{
			"an append opens an empty zone", nil,
			failpoint.Admit, appendBlock, driver.ZoneImpOpen, 1,
		},
		{
			"a close makes a zone empty that was opened for nothing",
			[]func(q *frontend.Queue) error{manage(driver.TypeZoneOpen)},
			failpoint.Managed, manage(driver.TypeZoneClose), driver.ZoneEmpty, 0,
		},
		{
			"a close",
			[]func(q *frontend.Queue) error{appendBlock},
			failpoint.Managed, manage(driver.TypeZoneClose), driver.ZoneClosed, 1,
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := create(&geometries[0], binary, dir); err != nil {
				t.Fatal(err)
			}
			k, err := launchKept(binary, dir, "threads")
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := k.End(unix.SIGTERM); err != nil {
					t.Error(err)
				}
			}()
			if err := k.Ready(); err != nil {
				t.Fatal(err)
			}
			disk, err := rig.Connect(filepath.Join(dir, "s"), frontend.Options{Queues: 1, QueueSize: 8, Depth: 1, BufferBytes: 4096})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = disk.Close() }()
			q := disk.Queue(0)
			for _, f := range c.before {
				if err := f(q); err != nil {
					t.Fatal(err)
				}
			}
			// A process reads when it starts where it is to die, and takes the file away.
			armed := filepath.Join(dir, "failpoint")
			if err := os.WriteFile(armed, []byte(c.point.String()+" 1"), 0o600); err != nil {
				t.Fatal(err)
			}
			taken := func() (bool, error) {
				_, err := os.Stat(armed)
				return err != nil, k.Gone()
			}
			if err := errors.Join(k.KillNext(), rig.Await("a process that is armed", taken)); err != nil {
				t.Fatal(err)
			}
			if err := c.last(q); err != nil {
				t.Error(err)
			}
			if !died(k, c.point) {
				t.Errorf("it did not die:\n%s", k.Log())
			}
			zones, err := q.ReportAll()
			if err != nil {
				t.Fatal(err)
			}
			if z := zones[0]; z.State != c.state || z.WP != c.written {
				t.Errorf("the zone is %s with %d sectors written, want %s with %d", rig.StateNames[z.State], z.WP, rig.StateNames[c.state], c.written)
			}
		})
	}
}
