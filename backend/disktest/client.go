package disktest

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// TB is what the helpers need of a test: a *testing.T or a *rapid.T.
type TB interface {
	Helper()
	Cleanup(func())
	Error(...any)
	Errorf(string, ...any)
	Fatal(...any)
	Fatalf(string, ...any)
}

// A Client drives a disk the way a queue worker does, one lane, waiting for
// each request or keeping several in flight.
type Client struct {
	T    TB
	Disk disk.Disk
	Lane *disk.Lane
}

// NewClient returns a client of d with a lane of its own, on the threads engine or, if d
// has the method TestEngine, on the engine that it returns. The end of the test closes the
// lane; requests in flight then are an error.
func NewClient(t TB, d disk.Disk) *Client {
	t.Helper()
	if own, ok := d.(interface {
		TestEngine(wake func()) (engine.Engine, error)
	}); ok {
		return NewClientOn(t, d, own.TestEngine)
	}
	return NewClientOn(t, d, func(wake func()) (engine.Engine, error) { return engine.NewThreads(0, wake), nil })
}

// NewClientOn is NewClient with the engine that open makes.
func NewClientOn(t TB, d disk.Disk, open func(wake func()) (engine.Engine, error)) *Client {
	t.Helper()
	lane, err := disk.NewLane(open)
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{T: t, Disk: d, Lane: lane}
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

// AsWorker is a goroutine that works on a disk by a lane of its own with that engine, as a
// queue worker does; several may do so at once.
func AsWorker(t *testing.T, d disk.Disk, kind engine.Kind, work func(*Client)) func() {
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
		work(&Client{T: t, Disk: d, Lane: lane})
	}
}

// Wait returns the next request that is done, sleeping as a worker does.
func (c *Client) Wait() *disk.Request {
	c.T.Helper()
	for {
		if r := c.Lane.Done(); r != nil {
			return r
		}
		c.Lane.Arm()
		if r := c.Lane.Done(); r != nil {
			c.Lane.Disarm()
			return r
		}
		c.Lane.Sleep(-1)
	}
}

// Submit submits requests as one batch and starts their I/O.
func (c *Client) Submit(rs ...*disk.Request) {
	for _, r := range rs {
		c.Lane.Submit(c.Disk, r)
	}
	c.Lane.Start()
}

// Do carries r out and returns its error. No other request may be in flight.
func (c *Client) Do(r *disk.Request) error {
	c.T.Helper()
	c.Submit(r)
	if got := c.Wait(); got != r {
		c.T.Fatalf("another request ended: %v", got.Op)
	}
	return r.Err
}

// NewRequest makes a request with data as its one vector, without one if data is empty.
func NewRequest(op disk.Op, sector uint64, data []byte) *disk.Request {
	r := &disk.Request{Op: op, Sector: sector, Bytes: uint64(len(data))}
	if len(data) > 0 {
		r.Iov = []unix.Iovec{{Base: &data[0], Len: uint64(len(data))}}
	}
	return r
}

// Write writes data at sector and returns the request's error.
func (c *Client) Write(sector uint64, data []byte) error {
	return c.Do(NewRequest(disk.OpWrite, sector, data))
}

// Append appends data to the zone that begins at sector zn and returns the sector where it
// was written, or the request's error.
func (c *Client) Append(zn uint64, data []byte) (uint64, error) {
	r := NewRequest(disk.OpAppend, zn, data)
	err := c.Do(r)
	return r.AppendSector, err
}

// Read returns n bytes from sector on. A read that fails ends the test.
func (c *Client) Read(sector uint64, n int) []byte {
	c.T.Helper()
	// Not zeroes, so that what a read leaves alone is seen.
	data := bytes.Repeat([]byte{0xee}, n)
	if err := c.Do(NewRequest(disk.OpRead, sector, data)); err != nil {
		c.T.Fatalf("read of %d bytes at sector %d: %v", n, sector, err)
	}
	return data
}

// ZoneOp carries out a request without data at sector and returns its error.
func (c *Client) ZoneOp(op disk.Op, sector uint64) error { return c.Do(NewRequest(op, sector, nil)) }

// Flush carries out a flush and returns its error.
func (c *Client) Flush() error { return c.Do(NewRequest(disk.OpFlush, 0, nil)) }

// WantZone checks the state of zone i and how many of its sectors are written.
func (c *Client) WantZone(i int, state zone.State, written uint64) {
	c.T.Helper()
	z := c.Disk.ReportZone(i)
	wp := z.Start + written
	if state == zone.Full {
		wp = z.Start + z.Length
	}
	if z.State != state || z.WP != wp {
		c.T.Errorf("zone %d is %v with its write pointer at %d, want %v at %d", i, z.State, z.WP-z.Start, state, wp-z.Start)
	}
}

// WantError checks that err is want.
func (c *Client) WantError(err, want error) {
	c.T.Helper()
	if !errors.Is(err, want) {
		c.T.Errorf("got %v, want %v", err, want)
	}
}

// FillSectors fills each sector of data with the byte that fill returns for its number; by
// the sector and not by the byte, which takes long with the race detector.
func FillSectors(data []byte, fill func(sector int) byte) {
	for i := 0; len(data) > 0; i++ {
		n := min(len(data), disk.SectorSize)
		copy(data, Pattern(fill(i), n))
		data = data[n:]
	}
}

// Pattern returns n bytes b.
func Pattern(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// Small is 16 zones of 64 KiB, 48 KiB of them writable, two conventional, the
// last one smaller: sectors 0..1919 in zones of 128, the last with 64.
var Small = zone.Geometry{
	CapacitySectors: 15*128 + 64, ZoneSectors: 128, ZoneCapacitySectors: 96,
	ConventionalZones: 2, MaxOpen: 3, MaxActive: 5, MaxAppendSectors: 32,
}

// FastDir returns a directory in memory where there is one, for tests that sync thousands
// of times.
func FastDir(t testing.TB) string {
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

// WantDone waits for one request for each of want, in that order.
func (c *Client) WantDone(want ...*disk.Request) {
	c.T.Helper()
	for i, w := range want {
		if got := c.Wait(); got != w {
			c.T.Fatalf("ending %d is a %v at sector %d", i, got.Op, got.Sector)
		}
	}
}

// WantNothingDone checks that no request has ended; why says what they wait for.
func (c *Client) WantNothingDone(why string) {
	c.T.Helper()
	if r := c.Lane.Done(); r != nil {
		c.T.Fatalf("%v ended with %v: %s", r.Op, r.Err, why)
	}
}

// AddFaults gives the client's disk the faults that the lines describe and returns their
// numbers.
func (c *Client) AddFaults(lines ...string) []uint64 {
	c.T.Helper()
	var faults []disk.Fault
	for _, line := range lines {
		f, err := disk.ParseFault(line)
		if err != nil {
			c.T.Fatal(err)
		}
		faults = append(faults, f)
	}
	ids, err := c.Disk.Faults().Add(faults...)
	if err != nil {
		c.T.Fatal(err)
	}
	return ids
}

// WantStruck checks how often the fault with this number has struck.
func (c *Client) WantStruck(id, want uint64) {
	c.T.Helper()
	for _, f := range c.Disk.Faults().List() {
		if f.ID == id && f.Struck != want {
			c.T.Errorf("fault %d (%v) struck %d times, want %d", id, f.Fault, f.Struck, want)
		}
	}
}

// Await waits until cond holds; that it never does ends the test.
func Await(t TB, cond func() bool) {
	t.Helper()
	for range 120_000 {
		if cond() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it did not come about within two minutes")
}

// WithFaultPanics runs f as a queue worker runs: a fault on mapped memory is a panic
// and not the end of the process.
func WithFaultPanics(f func() error) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return f()
}

// IsWriteOp reports whether op is a write or an append.
func IsWriteOp(op disk.Op) bool { return op == disk.OpWrite || op == disk.OpAppend }

// WantAllDone waits for these requests, in any order.
func (c *Client) WantAllDone(rs ...*disk.Request) {
	c.T.Helper()
	open := map[*disk.Request]bool{}
	for _, r := range rs {
		open[r] = true
	}
	for range rs {
		r := c.Wait()
		if !open[r] {
			c.T.Fatalf("another request ended: %v", r.Op)
		}
		delete(open, r)
	}
}
