package virtiopci

import (
	"errors"
	"fmt"
	"math/bits"
	"time"
)

// Bits of the device status ("Device Status Field").
const (
	StatusAcknowledge uint8 = 1
	StatusDriver      uint8 = 2
	StatusDriverOK    uint8 = 4
	StatusFeaturesOK  uint8 = 8
	StatusNeedsReset  uint8 = 64
	StatusFailed      uint8 = 128

	statusWritable = StatusAcknowledge | StatusDriver | StatusDriverOK | StatusFeaturesOK | StatusFailed
)

// isrConfig is the bit of ISR status for a configuration change.
const isrConfig = 2

// deviceStatus is what the driver reads.
func (f *Function) deviceStatus() uint8 {
	if f.needsReset.Load() {
		return f.status | StatusNeedsReset
	}
	return f.status
}

// writeStatus sets the bits of v; 0 resets the device. A bit is never cleared otherwise: a driver
// must not do that. FEATURES_OK is set only if the device accepts the features, DRIVER_OK only
// after it.
func (f *Function) writeStatus(v uint32) {
	if v == 0 {
		f.beginReset()
		return
	}
	set := uint8(v) & statusWritable &^ f.status
	if set&StatusFeaturesOK != 0 {
		if err := f.acceptFeatures(); err != nil {
			f.opt.Log("the driver's features %#x are refused: %v", f.driverFeatures, err)
			set &^= StatusFeaturesOK
		}
	}
	f.status |= set &^ StatusDriverOK
	if set&StatusDriverOK == 0 || f.status&StatusFeaturesOK == 0 {
		return
	}
	f.status |= StatusDriverOK
	f.driverOK.Store(true)
	f.deliver() // what has changed since the driver has read the configuration
	for i := range f.queues {
		if f.queues[i].enabled {
			f.start(i)
		}
	}
}

func (f *Function) acceptFeatures() error {
	switch unknown := f.driverFeatures &^ f.offered; {
	case unknown != 0:
		return fmt.Errorf("%#x was not offered", unknown)
	case f.driverFeatures&FeatureVersion1 == 0:
		return errors.New("VERSION_1 is missing")
	}
	return f.dev.SetFeatures(f.driverFeatures &^ ownFeatures)
}

// start starts queue i, which is enabled.
func (f *Function) start(i int) {
	q := &f.queues[i]
	if q.running || f.needsReset.Load() {
		return
	}
	err := fmt.Errorf("%d descriptors are not a power of two", q.Size)
	// The size may have been written before RING_PACKED was given up again.
	if f.driverFeatures&FeatureRingPacked != 0 || bits.OnesCount16(q.Size) == 1 {
		err = f.dev.StartQueue(i, q.Queue)
	}
	if err != nil {
		f.opt.Log("queue %d cannot start: %v", i, err)
		f.NeedsReset()
		return
	}
	q.running = true
}

// NeedsReset is for the device to call when it cannot continue: it sets DEVICE_NEEDS_RESET and
// notifies the driver. Queues that run are not stopped.
func (f *Function) NeedsReset() {
	f.needsReset.Store(true)
	f.ConfigChanged()
}

// ConfigChanged is for the device to call when its configuration space has changed by itself. It
// says whether the driver was notified: it is not before DRIVER_OK, or without a vector.
func (f *Function) ConfigChanged() (notified bool) {
	f.raised.Store(true)
	return f.deliver()
}

// deliver notifies the driver of a configuration change, if one is due and the driver runs. It is
// called after either has become true, so no change is lost.
func (f *Function) deliver() bool {
	if !f.driverOK.Load() || !f.raised.Swap(false) {
		return false
	}
	f.isr.Or(isrConfig) // before the notification ("ISR status capability")
	v := uint16(f.configVector.Load())
	if v == NoVector {
		return false
	}
	f.opt.Interrupt(v)
	return true
}

// beginReset resets the device ("Device Reset"): it stops all queues, which may take time, and
// then the status reads 0.
func (f *Function) beginReset() {
	if f.resetting != nil {
		return
	}
	// The driver is notified of nothing from here on.
	f.driverOK.Store(false)
	f.configVector.Store(NoVector)
	var running []int
	var ending []chan struct{}
	for i := range f.queues {
		switch q := &f.queues[i]; {
		case q.ending != nil:
			ending = append(ending, q.ending)
		case q.running:
			running = append(running, i)
		}
	}
	if running == nil && ending == nil {
		f.dev.Reset()
		f.clear()
		return
	}
	done := make(chan struct{})
	f.resetting = done
	f.pending++
	go func() {
		defer close(done)
		for _, c := range ending {
			<-c
		}
		for _, i := range running {
			f.dev.StopQueue(i)
		}
		f.dev.Reset()
	}()
	f.wait(done)
}

// wait gives a reset the time that Options.ResetWait allows, and acts on its end.
func (f *Function) wait(done chan struct{}) {
	if f.opt.ResetWait > 0 {
		t := time.NewTimer(f.opt.ResetWait)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
		}
	}
	f.settle()
}

// settle acts on the end of resets. It runs before each access, so that only the goroutine that
// accesses registers changes them.
func (f *Function) settle() {
	if f.pending == 0 {
		return
	}
	if f.resetting != nil {
		select {
		case <-f.resetting: // the resets of single queues have ended before
			f.clear()
		default:
		}
		return
	}
	for i := range f.queues {
		q := &f.queues[i]
		if q.ending == nil {
			continue
		}
		select {
		case <-q.ending:
			f.pending--
			f.clearQueue(q)
		default:
		}
	}
}

// clear puts all virtio registers to where they are after a reset.
func (f *Function) clear() {
	f.resetting, f.pending = nil, 0
	f.deviceFeatureSelect, f.driverFeatureSelect, f.driverFeatures = 0, 0, 0
	f.status, f.queueSelect = 0, 0
	f.driverOK.Store(false)
	f.configVector.Store(NoVector)
	f.needsReset.Store(false)
	f.raised.Store(false)
	f.isr.Store(0)
	for i := range f.queues {
		f.clearQueue(&f.queues[i])
	}
}

func (f *Function) clearQueue(q *queue) {
	*q = queue{Queue: Queue{Size: f.opt.QueueSize, Vector: NoVector}}
}

// Reset resets the function as a PCI function reset does: configuration space and MSI-X table are
// as after power-on, and the device is reset as by a driver. Wait returns when that has ended.
func (f *Function) Reset() {
	f.settle()
	f.initConfig()
	f.initTable()
	f.beginReset()
}

// Wait waits until no reset is under way, of the device or of a queue.
func (f *Function) Wait() {
	if f.resetting != nil {
		<-f.resetting
	}
	for i := range f.queues {
		if c := f.queues[i].ending; c != nil {
			<-c
		}
	}
	f.settle()
}

// Resetting says whether a reset of the device has begun and not ended.
func (f *Function) Resetting() bool {
	f.settle()
	return f.resetting != nil
}
