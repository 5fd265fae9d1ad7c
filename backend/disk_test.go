package backend

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// tb is what the helpers need of a test: a *testing.T or a *rapid.T.
type tb interface {
	Helper()
	Cleanup(func())
	Error(...any)
	Errorf(string, ...any)
	Fatal(...any)
	Fatalf(string, ...any)
}

// A client drives a disk the way a queue worker does, one lane, waiting for
// each request or keeping several in flight.
type client struct {
	t    tb
	disk disk.Disk
	lane *disk.Lane
}

func newClient(t tb, d disk.Disk) *client {
	t.Helper()
	if own, ok := d.(interface {
		testEngine(wake func()) (engine.Engine, error)
	}); ok {
		return newClientOn(t, d, own.testEngine)
	}
	return newClientOn(t, d, func(wake func()) (engine.Engine, error) { return engine.NewThreads(0, wake), nil })
}

func newClientOn(t tb, d disk.Disk, open func(wake func()) (engine.Engine, error)) *client {
	t.Helper()
	lane, err := disk.NewLane(open)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, disk: d, lane: lane}
	t.Cleanup(func() {
		if n := lane.InFlight(); n != 0 {
			t.Errorf("%d requests still in flight at the end of the test", n)
		}
		if err := lane.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// asWorker is a goroutine that works on a disk by a lane of its own with that engine, as a
// queue worker does; several may do so at once.
func asWorker(t *testing.T, d disk.Disk, kind engine.Kind, work func(*client)) func() {
	return func() {
		runtime.LockOSThread() // an engine may belong to it
		defer runtime.UnlockOSThread()
		lane, err := disk.NewLane(kind.Open)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() {
			if err := lane.Close(); err != nil {
				t.Error(err)
			}
		}()
		work(&client{t: t, disk: d, lane: lane})
	}
}

// wait returns the next request that is done, sleeping as a worker does.
func (c *client) wait() *disk.Request {
	c.t.Helper()
	for {
		if r := c.lane.Done(); r != nil {
			return r
		}
		c.lane.Arm()
		if r := c.lane.Done(); r != nil {
			c.lane.Disarm()
			return r
		}
		c.lane.Sleep(-1)
	}
}

func (c *client) submit(rs ...*disk.Request) {
	for _, r := range rs {
		c.lane.Submit(c.disk, r)
	}
	c.lane.Start()
}

func (c *client) do(r *disk.Request) error {
	c.t.Helper()
	c.submit(r)
	if got := c.wait(); got != r {
		c.t.Fatalf("another request ended: %v", got.Op)
	}
	return r.Err
}

func request(op disk.Op, sector uint64, data []byte) *disk.Request {
	r := &disk.Request{Op: op, Sector: sector, Bytes: uint64(len(data))}
	if len(data) > 0 {
		r.Iov = []unix.Iovec{{Base: &data[0], Len: uint64(len(data))}}
	}
	return r
}

func (c *client) write(sector uint64, data []byte) error {
	return c.do(request(disk.OpWrite, sector, data))
}

func (c *client) append(zn uint64, data []byte) (uint64, error) {
	r := request(disk.OpAppend, zn, data)
	err := c.do(r)
	return r.AppendSector, err
}

func (c *client) read(sector uint64, n int) []byte {
	c.t.Helper()
	// Not zeroes, so that what a read leaves alone is seen.
	data := bytes.Repeat([]byte{0xee}, n)
	if err := c.do(request(disk.OpRead, sector, data)); err != nil {
		c.t.Fatalf("read of %d bytes at sector %d: %v", n, sector, err)
	}
	return data
}

func (c *client) zoneOp(op disk.Op, sector uint64) error { return c.do(request(op, sector, nil)) }

func (c *client) flush() error { return c.do(request(disk.OpFlush, 0, nil)) }

func (c *client) wantZone(i int, state zone.State, written uint64) {
	c.t.Helper()
	z := c.disk.ReportZone(i)
	wp := z.Start + written
	if state == zone.Full {
		wp = z.Start + z.Length
	}
	if z.State != state || z.WP != wp {
		c.t.Errorf("zone %d is %v with its write pointer at %d, want %v at %d", i, z.State, z.WP-z.Start, state, wp-z.Start)
	}
}

func (c *client) want(err, want error) {
	c.t.Helper()
	if !errors.Is(err, want) {
		c.t.Errorf("got %v, want %v", err, want)
	}
}

func pattern(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// small is 16 zones of 64 KiB, 48 KiB of them writable, two conventional, the
// last one smaller: sectors 0..1919 in zones of 128, the last with 64.
var small = zone.Geometry{
	CapacitySectors: 15*128 + 64, ZoneSectors: 128, ZoneCapacitySectors: 96,
	ConventionalZones: 2, MaxOpen: 3, MaxActive: 5, MaxAppendSectors: 32,
}

func newImage(t testing.TB, g zone.Geometry) string {
	t.Helper()
	return newImageIn(t, t.TempDir(), g)
}

// newFastImage is for tests that sync thousands of times: it stands in memory
// where that can be had.
func newFastImage(t testing.TB, g zone.Geometry) string {
	t.Helper()
	return newImageIn(t, fastDir(t), g)
}

func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "zvhost-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func newImageIn(t tb, dir string, g zone.Geometry) string {
	t.Helper()
	path := filepath.Join(dir, "disk.zvh")
	if err := CreateImage(path, g); err != nil {
		t.Fatal(err)
	}
	return path
}

// closeDisk closes d, and checks the image that it leaves.
func closeDisk(t tb, d disk.Disk, path string) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	wantClean(t, path)
}

func openDisk(t tb, path string) disk.Disk {
	t.Helper()
	d, err := Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// wantClean runs the checker, as every test does that leaves an image behind.
func wantClean(t tb, path string) {
	t.Helper()
	findings, err := Check(path)
	if err != nil {
		t.Error(err)
	}
	for _, f := range findings {
		t.Errorf("check: %v", f)
	}
}
