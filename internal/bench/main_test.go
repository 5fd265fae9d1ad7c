package bench

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/device"
	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/vhostuser"
)

func TestMain(m *testing.M) {
	lastAnswers = time.Minute // however busy the machine is
	testleak.Main(m)
}

// impatient is for a test of what is not answered.
func impatient(t *testing.T) {
	was := lastAnswers
	lastAnswers = time.Millisecond
	t.Cleanup(func() { lastAnswers = was })
}

const testQueues = 3

// serve serves a disk to one front-end after the other, and returns the socket's
// path.
func serve(t *testing.T, dk disk.Disk, err error) string {
	t.Helper()
	check(t, err)
	log, err := logging.New(io.Discard, "error")
	check(t, err)
	dev, err := device.New(dk, device.Options{Queues: testQueues, Log: log})
	check(t, err)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	ended := make(chan error, 1)
	go func() {
		for {
			uc, err := l.AcceptUnix()
			if err != nil {
				ended <- nil
				return
			}
			if err := vhostuser.NewSession(uc, dev, vhostuser.Options{}).Run(); err != nil {
				ended <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), <-ended, dev.Close(), dk.Close()); err != nil {
			t.Error(err)
		}
	})
	return path
}

func serveNull(t *testing.T, sectors uint64) string {
	d, err := backend.NewNull(sectors)
	return serve(t, d, err)
}

// testGeometry has zones that fill up within a few requests, and one that does
// not fit.
var testGeometry = zone.Geometry{
	CapacitySectors: 12*128 + 64, ZoneSectors: 128, ZoneCapacitySectors: 100, ConventionalZones: 1, MaxOpen: 8, MaxAppendSectors: 64,
}

func newImage(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.zvh")
	check(t, image.Create(path, testGeometry))
	return path
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
