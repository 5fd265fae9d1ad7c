package frontend

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Many requests in flight on several queues at once, with pauses that the
// back-end knows nothing of: slots come and go, call descriptors change, the
// queue stops and starts.
func TestAsync(t *testing.T) {
	for _, without := range []uint64{0, driver.FeatureEventIdx | driver.FeatureIndirectDesc} {
		d := open(t, newRAMDisk(2), Options{Queues: 2, QueueSize: 32, Depth: 10, BufferBytes: 4096, Without: without})
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				if err := async(d.Queue(i), uint64(i)*zoneSectors); err != nil {
					t.Errorf("queue %d: %v", i, err)
				}
			})
		}
		// Only this goroutine uses the client.
		for n := range uint64(20) {
			r, err := d.AddRegion(guestmem.RegionDesc{GuestAddr: 1<<40 + n<<20, Size: 1 << 16, UserAddr: 1<<41 + n<<20})
			check(t, err)
			check(t, d.Client.SetVringCall(int(n)%2, d.Queue(int(n)%2).CallFD()))
			check(t, d.Client.SetVringEnable(int(n)%2, false))
			check(t, d.Client.SetVringEnable(int(n)%2, true))
			base, err := d.Queue(0).Stop()
			check(t, err)
			check(t, d.Queue(0).Start(base))
			check(t, d.Client.RemoveRegion(r))
			check(t, r.Close())
		}
		wg.Wait()
	}
}

// async writes and reads 3000 blocks of the zone at sector from.
func async(q *Queue, from uint64) error {
	done := make([]*Request, 4)
	place := map[*Request]uint64{}
	sent, back := 0, 0
	for back < 3000 {
		for sent < 3000 {
			r := q.Get()
			if r == nil {
				break
			}
			// Each buffer has its own sector, so that it is clear what it reads.
			r.Tag = uint64(sent)
			if _, ok := place[r]; !ok {
				place[r] = uint64(len(place))
			}
			r.Sector = from + place[r]
			r.Type = driver.TypeOut
			r.SetLen(512)
			for i := range r.Data {
				r.Data[i] = byte(sent)
			}
			if err := q.Submit(r); err != nil {
				return err
			}
			sent++
		}
		if err := q.Kick(); err != nil {
			return err
		}
		n, err := q.Wait(done)
		if err != nil {
			return err
		}
		for _, r := range done[:n] {
			if r.Status != driver.StatusOK {
				return fmt.Errorf("request %d: %s", r.Tag, driver.StatusString(r.Status))
			}
			q.Put(r)
			back++
		}
	}
	return nil
}

// Nothing on the way of a request allocates.
func TestNoAllocation(t *testing.T) {
	d := open(t, newRAMDisk(1), Options{BufferBytes: 8192})
	q := d.Queue(0)
	done := make([]*Request, 8)
	round := func() {
		for range 4 {
			r := q.Get()
			r.Type, r.Sector = driver.TypeIn, 0
			r.SetLen(8192)
			if err := q.Submit(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Kick(); err != nil {
			t.Fatal(err)
		}
		for back := 0; back < 4; {
			n, err := q.Wait(done)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range done[:n] {
				q.Put(r)
			}
			back += n
		}
	}
	// The device under test is in the same process and does allocate, so the
	// front-end's share is measured with requests that are there already.
	if testing.AllocsPerRun(100, func() {
		r := q.Get()
		r.Type, r.Sector = driver.TypeIn, 0
		r.SetLen(8192)
		q.Put(r)
	}) != 0 {
		t.Error("Get and Put allocate")
	}
	round()
	base, err := q.Stop()
	check(t, err)
	if n := testing.AllocsPerRun(10, func() {
		r := q.Get()
		r.Type, r.Sector = driver.TypeIn, 0
		r.SetLen(8192)
		if err := q.Submit(r); err != nil {
			t.Fatal(err)
		}
		if err := q.Kick(); err != nil {
			t.Fatal(err)
		}
		if n, err := q.Poll(done); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
	waiting := q.InFlight()
	check(t, q.Start(base))
	for q.Ring().DeviceIdx() != uint16(base)+uint16(waiting) {
		runtime.Gosched()
	}
	_, err = q.Stop()
	check(t, err)
	if n := testing.AllocsPerRun(waiting-1, func() {
		if n, err := q.Poll(done[:1]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		q.Put(done[0])
	}); n != 0 {
		t.Errorf("%v allocations per answer", n)
	}
}

func TestQueueLimits(t *testing.T) {
	dev := newRAMDisk(1)
	d := open(t, dev, Options{QueueSize: 8, Depth: 5, Without: driver.FeatureIndirectDesc, BufferBytes: 4096})
	q := d.Queue(0)
	var held []*Request
	for r := q.Get(); r != nil; r = q.Get() {
		r.Type = driver.TypeFlush
		held = append(held, r)
	}
	if len(held) != 5 {
		t.Fatalf("%d requests", len(held))
	}
	for i, r := range held {
		if err := q.Submit(r); (err == nil) != (i < 4) || err != nil && !errors.Is(err, driver.ErrFull) {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if err := q.Do(held[4]); !errors.Is(err, blkclient.ErrBusy) {
		t.Fatalf("Do beside others: %v", err)
	}
	check(t, q.Kick())
	done := make([]*Request, 8)
	for q.InFlight() > 0 {
		n, err := q.Wait(done)
		check(t, err)
		for _, r := range done[:n] {
			q.Put(r)
		}
	}
	check(t, q.Do(held[4]))
	for r := q.Get(); r != nil; r = q.Get() {
	}
	if err := q.Flush(); !errors.Is(err, blkclient.ErrBusy) {
		t.Fatalf("no request is free: %v", err)
	}
}

// A wait ends when the back-end is silent, and when it is gone.
func TestWaitEnds(t *testing.T) {
	dev := newRAMDisk(1)
	dev.noCalls = true
	d, err := Open(serve(t, dev, "no such message"), Options{Timeout: 10 * time.Millisecond})
	check(t, err)
	q := d.Queue(0)
	done := make([]*Request, 1)
	if _, err := q.Wait(done); err == nil || !strings.Contains(err.Error(), "no completion within 10ms, 0 requests in flight") {
		t.Fatalf("silent: %v", err)
	}
	q.Timeout = 0
	check(t, d.Client.Send(1000, vhostuser.Version, nil))
	if _, err := q.Wait(done); !errors.Is(err, ErrGone) {
		t.Fatalf("gone: %v", err)
	}
	if _, err := d.Client.Features(); !errors.Is(err, ErrGone) {
		t.Fatalf("gone: %v", err)
	}
	check(t, d.Abandon())
}
