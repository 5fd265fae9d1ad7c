package frontend

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtiopci/pcidriver"
)

// A disk over vfio-user, from the connection to its end: requests one by one, polling and sleeping,
// and many at once on two queues.
func TestDisk(t *testing.T) {
	ram := &ramDisk{}
	c, _ := serve(t, ram, blockDevice)
	d, err := Open(c, blkclient.Options{Queues: 2, QueueSize: 16, Depth: 4, BufferBytes: 8192, SegmentBytes: 4096})
	check(t, err)
	if d.Queues != diskQueues || d.Config.Capacity != diskSectors || d.ConfigBytes != driver.BlkConfigBytes || d.Features != ram.Features() {
		t.Errorf("%+v", d.Disk)
	}
	if _, err := c.PeerPID(); err != nil {
		t.Error(err)
	}
	q := d.Queue(0)
	if id, err := q.ID(); err != nil || id != "ram disk" {
		t.Errorf("ID %q, %v", id, err)
	}
	data := bytes.Repeat([]byte("door"), 2048)
	check(t, q.Write(data, 8))
	check(t, d.Queue(1).Flush())
	got := make([]byte, len(data))
	check(t, d.Queue(1).Read(got, 8))
	if !bytes.Equal(got, data) {
		t.Error("other data is read than was written")
	}
	if err := q.Zone(driver.TypeZoneOpen, 0); blkclient.Status(err) != driver.StatusUnsupp {
		t.Error(err)
	}
	if q.Kicks == 0 {
		t.Error("the device was never notified")
	}
	var all sync.WaitGroup
	for i := range 2 {
		all.Go(func() {
			if err := many(d.Queue(i), i == 0); err != nil {
				t.Errorf("queue %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if base, err := q.Stop(); err != nil || base != 0 {
		t.Errorf("stopped at %d: %v", base, err)
	}
	if s, err := d.PCI.Status(); err != nil || s != 0 {
		t.Errorf("device status %d after Stop, %v", s, err)
	}
	if err := q.Start(7); !errors.Is(err, errBase) {
		t.Error(err)
	}
	check(t, d.Close())
}

// many sends 500 requests, 4 at a time.
func many(q *blkclient.Queue, spin bool) error {
	done := make([]*blkclient.Request, 4)
	for sent, back := 0, 0; back < 500; {
		for r := q.Get(); r != nil; r = q.Get() {
			if sent++; sent > 500 {
				q.Put(r)
				break
			}
			r.Type, r.Sector = driver.TypeIn, uint64(sent%diskSectors)
			r.SetLen(512)
			if err := q.Submit(r); err != nil {
				return err
			}
		}
		if err := q.Kick(); err != nil {
			return err
		}
		wait := q.Wait
		if spin {
			wait = q.Spin
		}
		n, err := wait(done)
		if err != nil {
			return err
		}
		for _, r := range done[:n] {
			if r.Status != driver.StatusOK {
				return fmt.Errorf("status %d", r.Status)
			}
			q.Put(r)
		}
		back += n
	}
	return nil
}

// What is not the disk that is asked for is refused, and the client is closed.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		ram  ramDisk
		kind uint16
		o    blkclient.Options
		want string
	}{
		"another device": {kind: 1, want: "a virtio device of type 1"},
		"features":       {ram: ramDisk{refuse: errors.New("no")}, kind: blockDevice, want: blkclient.ErrFeatures.Error()},
		"packed":         {kind: blockDevice, o: blkclient.Options{Packed: true}, want: "no packed rings"},
		"queues":         {kind: blockDevice, o: blkclient.Options{Queues: 3}, want: "has 2 queues, 3 are too many"},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := serve(t, &c.ram, c.kind)
			if _, err := Open(client, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

// Waits end when the server has gone, when they are interrupted, and after their time.
func TestWaitsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*Disk, func())
		want error
	}{
		"gone":      {func(_ *Disk, leave func()) { leave() }, blkclient.ErrGone},
		"interrupt": {func(d *Disk, _ func()) { d.Client.Interrupt() }, blkclient.ErrInterrupted},
		"time":      {func(*Disk, func()) {}, blkclient.ErrTimeout},
	} {
		for _, spin := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, polling %v", name, spin), func(t *testing.T) {
				client, s := serve(t, &ramDisk{mute: true}, blockDevice)
				d, err := Open(client, blkclient.Options{})
				check(t, err)
				q := d.Queue(0)
				q.Timeout = time.Minute
				if name == "time" {
					q.Timeout = 20 * time.Millisecond
				}
				r := q.Get()
				r.Type = driver.TypeFlush
				check(t, q.Submit(r))
				check(t, q.Kick())
				time.AfterFunc(time.Millisecond, func() { c.end(d, s.Close) })
				wait := q.Wait
				if spin {
					wait = q.Spin
				}
				if _, err := wait(make([]*blkclient.Request, 1)); !errors.Is(err, c.want) {
					t.Errorf("%v, not %v", err, c.want)
				}
				check(t, d.Abandon())
				client.Interrupt() // after Close it has no effect
			})
		}
	}
}

// A server that accepts the connection and says nothing.
func TestSilentServer(t *testing.T) {
	for name, c := range map[string]struct {
		timeout time.Duration
		end     func(*Client, func() error)
		want    error
	}{
		"time":        {20 * time.Millisecond, func(*Client, func() error) {}, blkclient.ErrTimeout},
		"interrupted": {0, func(c *Client, _ func() error) { c.Interrupt() }, blkclient.ErrInterrupted},
		"earlier":     {time.Minute, func(c *Client, _ func() error) { c.Interrupt() }, blkclient.ErrInterrupted},
		"gone":        {time.Minute, func(_ *Client, leave func() error) { _ = leave() }, blkclient.ErrGone},
	} {
		t.Run(name, func(t *testing.T) {
			ends := pair(t)
			client, err := New(ends[1])
			check(t, err)
			client.Timeout = c.timeout
			if name == "earlier" {
				c.end(client, ends[0].Close)
			} else {
				time.AfterFunc(time.Millisecond, func() { c.end(client, ends[0].Close) })
			}
			if _, err := Open(client, blkclient.Options{}); !errors.Is(err, c.want) {
				t.Errorf("%v, not %v", err, c.want)
			}
			_ = ends[0].Close() // it may be closed already
		})
	}
}

// A queue is no larger than the device allows.
func TestQueueSizeLimit(t *testing.T) {
	c, _ := serve(t, &ramDisk{}, blockDevice)
	d, err := Open(c, blkclient.Options{QueueSize: 1024, Depth: 4})
	check(t, err)
	if n := d.Queue(0).Ring().Config().Size; n != 256 {
		t.Errorf("%d descriptors", n)
	}
	check(t, d.Queue(0).Flush())
	check(t, d.Close())
}

// The queues beyond the vectors have none.
func TestFewVectors(t *testing.T) {
	d := &Disk{PCI: &pcidriver.Device{Vectors: 2}}
	if a, b := d.vector(0), d.vector(1); a != 1 || b != pcidriver.NoVector {
		t.Errorf("vectors %d and %d", a, b)
	}
}
