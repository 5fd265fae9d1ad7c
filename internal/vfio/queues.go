package vfio

import (
	"fmt"

	"golang.org/x/sys/unix"

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
	started bool   // the driver has started it
	running bool   // the device has it; a queue whose ring is not in memory waits for that
	base    uint32 // where it continues
}

// driven is the device as virtiopci drives it. Its calls come from the session's goroutine, and
// during a reset from another one.
type driven struct{ f *Function }

func (d driven) Features() uint64 { return d.f.dev.Features() }

func (d driven) SetFeatures(accepted uint64) error {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	d.f.features = accepted
	return d.f.dev.SetFeatures(accepted)
}

func (d driven) ReadConfig(dst []byte, off uint32) error {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	return d.f.dev.ReadConfig(dst, off)
}

func (d driven) WriteConfig(src []byte, off uint32) error {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	return d.f.dev.WriteConfig(src, off)
}

// StartQueue implements virtiopci.Device.
func (d driven) StartQueue(i int, q virtiopci.Queue) error {
	f := d.f
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := queue{Queue: q, started: true}
	if f.features&featureRingPacked != 0 {
		fresh.base = packedStart
	}
	f.queues[i] = fresh
	r := f.ring(i)
	if r.Mem == nil {
		f.queues[i] = queue{}
		return fmt.Errorf("the client has mapped no memory that it shares: %s", noMemory)
	}
	if err := r.Check(); err != nil {
		f.queues[i] = queue{}
		return err
	}
	if err := f.start(i, r); err != nil {
		f.queues[i] = queue{}
		return err
	}
	return nil
}

// ring is what the device needs to know of queue i.
func (f *Function) ring(i int) transport.Ring {
	q := &f.queues[i]
	return transport.Ring{
		Size: q.Size, Desc: q.Desc, Avail: q.Driver, Used: q.Device, Base: q.base,
		Features: f.features, Mem: f.mem.current,
		Kick: f.kicks[i].Int(), Call: f.irqs.eventfd(q.Vector), Err: -1, NoMemory: noMemory, LogCall: -1,
	}
}

func (f *Function) start(i int, r transport.Ring) error {
	f.dev.BeginRing(false)
	if err := f.dev.StartQueue(i, r); err != nil {
		return err
	}
	f.queues[i].running = true
	return nil
}

// pause stops queue i, if it runs, for a moment.
func (f *Function) pause(i int, why string) {
	if q := &f.queues[i]; q.running {
		q.base = f.dev.StopQueue(i, why)
		q.running = false
	}
}

// resume starts queue i again if the driver has started it, and its ring is in memory. One that
// is not waits for memory that covers it: QEMU replaces a region, for example when firmware
// makes a piece of it read-only, by unmapping it and mapping the parts.
func (f *Function) resume(i int) {
	q := &f.queues[i]
	if !q.started || q.running {
		return
	}
	r := f.ring(i)
	if r.Mem == nil || r.Check() != nil {
		return
	}
	if err := f.start(i, r); err != nil {
		f.warn("queue %d cannot continue: %v", i, err)
		f.pci.NeedsReset()
	}
}

// StopQueue implements virtiopci.Device.
func (d driven) StopQueue(i int) {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	d.f.pause(i, "a reset")
	d.f.queues[i] = queue{}
}

// SetVector implements virtiopci.Device.
func (d driven) SetVector(i int, vector uint16) {
	f := d.f
	f.mu.Lock()
	defer f.mu.Unlock()
	q := &f.queues[i]
	q.Vector = vector
	if q.running {
		f.dev.Notify(i, f.irqs.eventfd(vector), -1)
	}
}

// one is what an eventfd is written with.
var one = [8]byte{1}

// Notify implements virtiopci.Device. Only this process has the eventfd, so that the write does
// not wait.
func (d driven) Notify(i int) { _, _ = unix.Write(d.f.kicks[i].Int(), one[:]) }

// Reset implements virtiopci.Device.
func (d driven) Reset() {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	d.f.features = 0
	d.f.dev.Reset()
}
