package vfio

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vfiouser"
)

// BeginStop implements transport.Device.
func (d *fakeDevice) BeginStop(i int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, on := d.rings[i]; !on {
		panic(fmt.Sprintf("queue %d does not run", i))
	}
	d.note("begin %d", i)
}

// slow makes the device's queues take until the returned function is called to stop.
func (d *fakeDevice) slow() (fast func()) {
	hold := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hold = hold
	return func() {
		d.mu.Lock()
		d.hold = nil
		d.mu.Unlock()
		close(hold)
	}
}

// others sends the messages that do not wait for requests in flight: each is answered.
func (r *rig) others() {
	r.t.Helper()
	const far = 0x1000_0000
	r.must(r.client.SetEventfds(irqMSIX, 0, r.fds[1]))
	r.must(r.client.SetIRQs(irqMSIX, vfiouser.IRQDataEventfd|vfiouser.IRQTrigger, 1, 1, nil))
	r.must(r.client.Map(far, 0x1000, 0, r.memfd))
	r.must(r.client.Map(far+0x1000, 0x1000, 0, r.memfd))
	r.must(r.client.Map(far+0x2000, 0x1000, 0, -1))
	r.must(r.client.Unmap(far+0x2000, 0x1000))
	// The device may use these, as far as the client can know.
	if err := r.client.Unmap(memBase, memBytes); !errors.Is(err, unix.EBUSY) {
		r.t.Errorf("an unmap while requests are in flight: %v", err)
	}
	if err := r.client.UnmapAll(); !errors.Is(err, unix.EBUSY) {
		r.t.Errorf("unmap-all while requests are in flight: %v", err)
	}
	if err := r.client.Map(memBase, memBytes, 0, r.memfd); !errors.Is(err, unix.EEXIST) {
		r.t.Errorf("the map that was not removed: %v", err)
	}
	var b [1]byte
	r.must(r.driver.ReadDeviceConfig(b[:], 0))
	if b[0] != 5 {
		r.t.Errorf("the configuration space reads %d", b[0])
	}
}

// A client's messages are answered while requests in flight take long to end, during a reset too:
// QEMU waits for each answer for 5 s. Memory that they may use stays mapped, and the client
// receives an error.
func TestAnswersDuringSlowReset(t *testing.T) {
	dev := newFake()
	dev.capacity.Store(5)
	r := newRig(t, dev)
	r.mapAll()
	r.start(2, featureVersion1)
	fast := dev.slow()
	if err := r.client.Reset(); !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	r.fn.mu.Lock()
	r.fn.wait = time.Hour // the client has waited already
	r.fn.mu.Unlock()
	r.others()
	fast()
	r.must(r.driver.Reset()) // waits for its end
	r.must(r.client.UnmapAll())
	r.mapAll()
	r.start(2, featureVersion1)
	r.leave()
}

// See TestAnswersDuringSlowReset. All queues take no more requests before a map is answered
// that they do not know yet, and then continue with it and with the eventfds that the client has
// exchanged meanwhile.
func TestAnswersDuringSlowExchange(t *testing.T) {
	dev := newFake()
	dev.capacity.Store(5)
	r := newRig(t, dev)
	r.mapAll()
	r.start(2, featureVersion1)
	dev.seen()
	was := dev.ring(0).Mem
	fast := dev.slow()
	r.must(r.client.Map(0x2000_0000, 0x1000, 0, r.memfd))
	if got := dev.seen(); got != "begin 0; begin 1" {
		t.Errorf("%q before the map is answered", got)
	}
	r.others()
	r.must(r.driver.SetVector(1, 0))
	fast()
	r.await("the queues continue", func() bool {
		a, b := dev.ring(0), dev.ring(1)
		return a.Mem != nil && a.Mem != was && b.Mem == a.Mem && a.Call >= 0 && b.Call == a.Call
	})
	if _, err := dev.ring(1).Mem.Bytes(0x1000_1000, 0x1000); err != nil {
		t.Errorf("memory that was mapped meanwhile: %v", err)
	}
	if r.count(0) != 0 || r.count(1) == 0 { // vector 0 has the eventfd of vector 1
		t.Error("the driver may miss what was answered meanwhile")
	}
	r.must(r.client.UnmapAll())
	r.leave()
}

// A client that leaves while a map waits for requests in flight leaves nothing behind.
func TestLeaveDuringSlowExchange(t *testing.T) {
	dev := newFake()
	r := newRig(t, dev)
	r.mapAll()
	r.start(2, featureVersion1)
	fast := dev.slow()
	if err := r.client.Unmap(memBase, memBytes); !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	r.must(r.client.Map(0x2000_0000, 0x1000, 0, r.memfd))
	r.must(r.client.Close())
	fast()
	r.must(<-r.ended)
	for _, fd := range r.fds {
		r.must(unix.Close(fd))
	}
	r.fds = nil
	if dev.ring(0).Mem != nil || dev.ring(1).Mem != nil {
		t.Error("queues run")
	}
	r.connect()
	r.mapAll()
	r.start(2, featureVersion1)
	r.leave()
}
