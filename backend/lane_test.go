package backend

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
)

// A relay is a disk whose requests are answered by another goroutine.
type relay struct {
	disk.Disk
	to chan *disk.Request
}

func (d *relay) Submit(r *disk.Request)   { d.to <- r }
func (d *relay) Continue(r *disk.Request) { r.Finish(nil) }

// A worker that sleeps is woken by what other goroutines hand to its lane,
// whenever they do: no wake-up is lost between its last look and its sleep.
func TestLaneWakes(t *testing.T) {
	d := &relay{to: make(chan *disk.Request, 64)}
	var answering sync.WaitGroup
	for range 2 {
		answering.Go(func() {
			for r := range d.to {
				if r.Tag%3 == 0 {
					runtime.Gosched()
				}
				r.Post()
			}
		})
	}
	c := disktest.NewClient(t, d)
	rs := make([]disk.Request, 8)
	ended := 0
	for i := range 8_000 {
		n := i%len(rs) + 1
		for j := range n {
			rs[j].Tag = uint32(i + j)
			c.Submit(&rs[j])
		}
		for range n {
			c.Wait()
			ended++
		}
		if c.Lane.InFlight() != 0 {
			t.Fatalf("%d in flight", c.Lane.InFlight())
		}
	}
	close(d.to)
	answering.Wait()
	t.Logf("%d requests", ended)
}

func readable(t *testing.T, fd int) bool {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		switch err {
		case nil:
			return n == 1
		case unix.EINTR: // the runtime's signals
		default:
			t.Fatal(err)
		}
	}
}

// The eventfd is written when the lane is armed, once, and not otherwise: a
// busy worker costs nobody a system call.
func TestLaneArm(t *testing.T) {
	c := disktest.NewClient(t, &relay{})
	l := c.Lane
	l.Wake()
	if readable(t, l.WakeFD()) {
		t.Error("woken, but not armed")
	}
	l.Arm()
	if readable(t, l.WakeFD()) {
		t.Error("armed, but nothing has happened")
	}
	l.Wake()
	l.Wake()
	if !readable(t, l.WakeFD()) {
		t.Error("armed and not woken")
	}
	if l.Sleep(-1); readable(t, l.WakeFD()) {
		t.Error("a wake-up is left over")
	}
	l.Arm()
	l.Disarm()
	l.Wake()
	if readable(t, l.WakeFD()) {
		t.Error("woken after it was disarmed")
	}
	// One that comes between the last look and Disarm is seen the next time.
	l.Arm()
	l.Wake()
	l.Disarm()
	l.Arm()
	if !readable(t, l.WakeFD()) {
		t.Error("a late wake-up is lost")
	}
	l.Sleep(-1)
}

func TestLaneWithoutEngine(t *testing.T) {
	want := errors.New("no engine")
	if _, err := disk.NewLane(func(func()) (engine.Engine, error) { return nil, want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

// Who hands a request to a lane must be through with the lane before the worker
// can close it: a late wake-up would go to whatever has its descriptor's number
// by then.
func TestLateWakeUp(t *testing.T) {
	d := &relay{to: make(chan *disk.Request)}
	var answering sync.WaitGroup
	answering.Go(func() {
		for r := range d.to {
			r.Post()
		}
	})
	open := func(func()) (engine.Engine, error) { return disktest.NewHeldEngine(nil), nil }
	for range 500 {
		lane, err := disk.NewLane(open)
		if err != nil {
			t.Fatal(err)
		}
		var r disk.Request
		lane.Submit(d, &r)
		for lane.Done() == nil {
			lane.Arm()
		}
		lane.Disarm()
		fd := lane.WakeFD()
		if err := lane.Close(); err != nil {
			t.Fatal(err)
		}
		other, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
		if other == fd && readable(t, other) {
			t.Fatal("a wake-up went to another descriptor")
		}
		if err := unix.Close(other); err != nil {
			t.Fatal(err)
		}
	}
	close(d.to)
	answering.Wait()
}
