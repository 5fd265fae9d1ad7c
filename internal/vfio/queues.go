package vfio

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/virtio/transport"
	"github.com/zvhost/zvhost/virtiopci"
)

// featureRingPacked makes rings packed ones, and packedStart is where such a ring begins: at
// descriptor 0, both wrap counters 1 (virtio, "Driver and Device Ring Wrap Counters").
const (
	featureRingPacked uint64 = 1 << 34
	packedStart              = 0x8000_8000
)

// noMemory is what to do where a request names memory that the client has not shared.
const noMemory = "share the guest's memory (QEMU: -object memory-backend-memfd,id=mem,size=...,share=on and -machine memory-backend=mem; cloud-hypervisor: --memory shared=on), that of DIMMs that are plugged in later too"

// A queue is a virtqueue as the driver has set it up.
type queue struct {
	virtiopci.Queue
	started bool        // the driver has started it
	running bool        // the device has it; a queue whose ring is not in memory waits for that
	base    uint32      // where it continues
	call    *foreign.FD // what it notifies, or did when it stopped; closed if the client has taken it back
}

// driven is the device as virtiopci drives it. Its calls come from the session's goroutine, and
// during a reset from another one.
type driven struct{ f *Function }

func (d driven) Features() uint64 { return d.f.dev.Features() }

func (d driven) SetFeatures(accepted uint64) error {
	d.f.takeForSure() // no queue runs
	defer d.f.give()
	d.f.mu.Lock()
	d.f.features = accepted
	d.f.mu.Unlock()
	return d.f.dev.SetFeatures(accepted)
}

// ReadConfig implements virtiopci.Device. While queues take long to stop it returns what was read
// before.
func (d driven) ReadConfig(dst []byte, off uint32) error {
	f := d.f
	if !f.take() {
		copy(dst, f.shown[off:])
		return nil
	}
	defer f.give()
	err := f.dev.ReadConfig(dst, off)
	if err == nil {
		copy(f.shown[off:], dst)
	}
	return err
}

func (d driven) WriteConfig(src []byte, off uint32) error {
	if !d.f.take() {
		return errors.New("queues are being stopped, and requests in flight take long")
	}
	defer d.f.give()
	return d.f.dev.WriteConfig(src, off)
}

// StartQueue implements virtiopci.Device. While other queues take long to stop, the queue starts
// after them.
func (d driven) StartQueue(i int, q virtiopci.Queue) error {
	f := d.f
	if err := f.setUp(i, q); err != nil {
		return err
	}
	if !f.take() {
		f.apply()
		return nil
	}
	defer f.give()
	return f.resume(i)
}

// setUp stores queue i, if it can be started.
func (f *Function) setUp(i int, q virtiopci.Queue) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := queue{Queue: q, started: true, call: f.irqs.eventfd(q.Vector)}
	if f.features&featureRingPacked != 0 {
		fresh.base = packedStart
	}
	f.queues[i] = fresh
	r := f.ringLocked(i)
	var err error
	if r.Mem == nil {
		err = fmt.Errorf("the client has mapped no memory that it shares: %s", noMemory)
	} else {
		err = r.Check()
	}
	if err != nil {
		f.queues[i] = queue{}
	}
	return err
}

// ringLocked is what the device needs to know of queue i.
func (f *Function) ringLocked(i int) transport.Ring {
	q := &f.queues[i]
	return transport.Ring{
		Size: q.Size, Desc: q.Desc, Avail: q.Driver, Used: q.Device, Base: q.base,
		Features: f.features, Mem: f.mem.current,
		Kick: f.kicks[i].Int(), Call: f.irqs.eventfd(q.Vector).Int(), Err: -1, NoMemory: noMemory, LogCall: -1,
	}
}

func (f *Function) runs(i int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.queues[i].running
}

// pause stops queue i, if it runs, for a moment.
func (f *Function) pause(i int, why string) {
	if !f.runs(i) {
		return
	}
	base := f.dev.StopQueue(i, why)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queues[i].base, f.queues[i].running = base, false
}

// resume starts queue i, or starts it again where it has stopped, if the driver has started it and
// its ring is in memory. After an error it is not started.
func (f *Function) resume(i int) error {
	f.mu.Lock()
	q := &f.queues[i]
	r := f.ringLocked(i)
	waits := !q.started || q.running || r.Mem == nil || r.Check() != nil
	f.mu.Unlock()
	if waits {
		return nil
	}
	f.dev.BeginRing(false)
	err := f.dev.StartQueue(i, r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		*q = queue{}
		return err
	}
	q.running = true
	return nil
}

// StopQueue implements virtiopci.Device. It waits for requests in flight, in a goroutine of a
// reset.
func (d driven) StopQueue(i int) {
	f := d.f
	f.takeForSure()
	defer f.give()
	f.pause(i, "a reset")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queues[i] = queue{}
}

// SetVector implements virtiopci.Device.
func (d driven) SetVector(i int, vector uint16) {
	d.f.mu.Lock()
	d.f.queues[i].Vector = vector
	d.f.mu.Unlock()
	d.f.apply()
}

// one is what an eventfd is written with.
var one = [8]byte{1}

// Notify implements virtiopci.Device. Only this process has the eventfd, so that the write does
// not wait.
func (d driven) Notify(i int) { _, _ = unix.Write(d.f.kicks[i].Int(), one[:]) }

// Reset implements virtiopci.Device.
func (d driven) Reset() {
	d.f.takeForSure() // no queue runs
	defer d.f.give()
	d.f.mu.Lock()
	d.f.features = 0
	d.f.mu.Unlock()
	d.f.dev.Reset()
}
