package virtiopci

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// "Device Initialization", from reset to DRIVER_OK: the device is asked for the features at
// FEATURES_OK, and queues start at DRIVER_OK with what the driver has set up.
func TestInitialization(t *testing.T) {
	r := newRig(t)
	r.put(comStatus, 1, 0)
	r.wantCalls("reset")
	r.put(comStatus, 1, 1)
	r.put(comStatus, 1, 3)
	r.wantStatus(3)
	r.negotiate(FeatureVersion1 | FeatureRingPacked | 1<<9)
	r.wantStatus(11)
	r.wantCalls("features 0x500000200")
	r.put(comQueueSize, 2, 100)
	r.setUp(0)
	r.wantCalls()
	r.put(comStatus, 1, 15)
	r.wantStatus(15)
	r.wantCalls("start 0 {Size:100 Desc:4294971392 Driver:4294975488 Device:4294979584 Vector:1}")
	// queue_enable after DRIVER_OK starts at once.
	r.setUp(1)
	r.wantCalls("start 1 {Size:256 Desc:8589938688 Driver:8589942784 Device:8589946880 Vector:2}")
	if q, running := r.Queue(1); !running || q != r.dev.running[1] {
		t.Errorf("%+v %v", q, running)
	}
	r.put(comQueueVector, 2, 0)
	r.put(comQueueVector, 2, 7)
	r.wantCalls("vector 1 0", fmt.Sprintf("vector 1 %d", NoVector))
	// The same features again after a reset.
	r.put(comStatus, 1, 0)
	r.Wait()
	r.wantStatus(0)
	r.wantCalls("stop 0", "stop 1", "reset")
	r.run(FeatureVersion1 | FeatureRingPacked | 1<<9)
	r.put(comStatus, 1, 0)
	r.Wait()
}

// FEATURES_OK is not set for features that do not work.
func TestFeaturesRefused(t *testing.T) {
	for name, c := range map[string]struct {
		features uint64
		refuse   error
		log      string
	}{
		"not offered":        {FeatureVersion1 | 1<<6, nil, "0x40 was not offered"},
		"not offered, upper": {FeatureVersion1 | 1<<35, nil, "was not offered"},
		"SR_IOV":             {FeatureVersion1 | FeatureSRIOV, nil, "was not offered"},
		"no VERSION_1":       {1 << 9, nil, "VERSION_1 is missing"},
		"device":             {FeatureVersion1, errors.New("ZONED is missing"), "ZONED is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			var lines []string
			r := newRig(t, func(d *fakeDevice, o *Options) {
				d.refuse = c.refuse
				d.features |= FeatureSRIOV
				o.Log = func(f string, a ...any) { lines = append(lines, fmt.Sprintf(f, a...)) }
			})
			r.negotiate(c.features)
			r.wantStatus(3)
			if len(lines) != 1 || !strings.Contains(lines[0], c.log) {
				t.Errorf("logged %q", lines)
			}
			r.put(comStatus, 1, 15) // once more, with DRIVER_OK
			r.wantStatus(3)
			// Without a reset the driver can accept other features.
			r.dev.refuse = nil
			r.negotiate(FeatureVersion1)
			r.wantStatus(11)
			// They do not change any more.
			r.put(comDriverFeatureSelect, 4, 0)
			r.put(comDriverFeature, 4, 1<<9)
			if got := r.get(comDriverFeature, 4); got != 0 {
				t.Errorf("driver_feature %#x", got)
			}
		})
	}
}

// Bits are set and never cleared; unknown ones and DEVICE_NEEDS_RESET are not the driver's.
func TestStatusBits(t *testing.T) {
	r := newRig(t)
	r.put(comStatus, 1, 0xff&^uint64(StatusFeaturesOK))
	r.wantStatus(StatusAcknowledge | StatusDriver | StatusFailed) // DRIVER_OK without FEATURES_OK
	r.put(comStatus, 1, 1)
	r.wantStatus(StatusAcknowledge | StatusDriver | StatusFailed)
	r.put(comStatus, 1, 0)
	r.wantStatus(0)
	r.wantCalls("reset")
	// FEATURES_OK and DRIVER_OK in one write.
	r.put(comDriverFeatureSelect, 8, 1|1<<32)
	r.put(comStatus, 1, 15)
	r.wantStatus(15)
	r.put(comStatus, 1, uint64(StatusFailed))
	r.wantStatus(15 | StatusFailed)
	r.put(comStatus, 1, 0)
	r.wantStatus(0)
}

// "Device Reset": everything is as at first, and the driver is notified of nothing.
func TestReset(t *testing.T) {
	r := newRig(t)
	first := r.image()
	r.run(FeatureVersion1)
	r.ConfigChanged()
	r.NeedsReset()
	r.wantStatus(15 | StatusNeedsReset)
	r.put(comDeviceFeatureSelect, 4, 1)
	r.interrupts()
	r.put(comStatus, 1, 0)
	r.Wait()
	r.wantCalls("stop 0", "stop 1", "reset")
	if got := r.image(); !slices.Equal(got, first) {
		t.Errorf("registers after a reset\n%x, not\n%x", got, first)
	}
	r.put(3*pageBytes, 2, 0)
	if r.ConfigChanged() || len(r.interrupts()) != 0 {
		t.Error("the driver is notified after a reset")
	}
	r.wantCalls()
	// By PCI: configuration space too.
	r.run(FeatureVersion1)
	r.setConf(regBAR0, 4, 0xfebf0000)
	r.setConf(regCommand, 2, 6)
	r.put(4*pageBytes, 8, ^uint64(0))
	r.Reset()
	r.Wait()
	r.wantCalls("stop 0", "stop 1", "reset")
	if got := r.image(); !slices.Equal(got, first) {
		t.Errorf("registers after a PCI reset\n%x, not\n%x", got, first)
	}
}

// A reset that takes time: the status does not read 0 before the device has stopped, writes have no
// effect, and the device is not called for anything else.
func TestResetTakesTime(t *testing.T) {
	hold := make(chan struct{})
	r := newRig(t, func(d *fakeDevice, o *Options) { d.hold = hold })
	r.run(FeatureVersion1)
	r.put(comStatus, 1, 0)
	r.wantStatus(15)
	if !r.Resetting() {
		t.Error("no reset is under way")
	}
	before := r.common()
	r.put(comStatus, 1, 0)
	r.put(comStatus, 1, 1)
	r.put(comQueueVector, 2, 0)
	r.put(comConfigVector, 2, 0)
	r.put(comDriverFeature, 4, 1)
	r.put(3*pageBytes, 8, 0)
	r.put(2*pageBytes+32, 1, 9)
	if got := r.get(2*pageBytes+32, 1); got != 33 {
		t.Errorf("device configuration reads %d", got)
	}
	if r.ConfigChanged() || len(r.interrupts()) != 0 {
		t.Error("the driver is notified during a reset")
	}
	if r.common() != before {
		t.Error("registers change during a reset")
	}
	if s := r.Save(); s.Status != 0 || s.Queues[0].Running || s.Queues[0].Desc != 0 {
		t.Errorf("saved during a reset: %+v", s)
	}
	if err := r.Restore(r.Save()); err == nil {
		t.Error("a state is restored during a reset")
	}
	r.wantCalls()
	close(hold)
	await(t, "end of the reset", func() bool { return r.get(comStatus, 1) == 0 })
	if r.Resetting() {
		t.Error("the reset has not ended")
	}
	r.wantCalls("stop 0", "stop 1", "reset")
	r.run(FeatureVersion1)
	r.Reset()
	r.Wait()
}

// A driver that does not read the status back finds the device reset, if that takes little time.
func TestResetIsAwaited(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Hour} {
		hold := make(chan struct{})
		r := newRig(t, func(d *fakeDevice, o *Options) { d.hold, o.ResetWait = hold, wait })
		if r.opt.ResetWait <= 0 {
			t.Error(r.opt.ResetWait)
		}
		r.opt.ResetWait = time.Hour
		r.run(FeatureVersion1)
		time.AfterFunc(time.Millisecond, func() { close(hold) })
		r.put(comStatus, 1, 0)
		r.put(comStatus, 1, 1)
		r.wantStatus(1)
	}
}

// "Notification of Device Configuration Changes".
func TestConfigChange(t *testing.T) {
	r := newRig(t)
	r.negotiate(FeatureVersion1)
	r.put(comConfigVector, 2, 2)
	// Before DRIVER_OK the driver is not notified, and then of what has changed since.
	if r.ConfigChanged() || r.get(pageBytes, 1) != 0 {
		t.Error("notified before DRIVER_OK")
	}
	r.put(comStatus, 1, 15)
	if got := r.interrupts(); !slices.Equal(got, []uint16{2}) {
		t.Errorf("interrupts %d", got)
	}
	if got := r.get(pageBytes, 1); got != isrConfig {
		t.Errorf("ISR status %d", got)
	}
	if !r.ConfigChanged() || !slices.Equal(r.interrupts(), []uint16{2}) {
		t.Error("not notified")
	}
	// Without a vector there is no interrupt.
	r.put(comConfigVector, 2, NoVector)
	if r.ConfigChanged() || len(r.interrupts()) != 0 {
		t.Error("an interrupt without a vector")
	}
	if got := r.get(pageBytes, 1); got != isrConfig {
		t.Errorf("ISR status %d", got)
	}
}

// DEVICE_NEEDS_RESET is followed by a configuration change notification, and ends with a reset. A
// queue that cannot start is a reason for it.
func TestNeedsReset(t *testing.T) {
	r := newRig(t)
	r.run(FeatureVersion1)
	r.NeedsReset()
	r.wantStatus(15 | StatusNeedsReset)
	if got := r.interrupts(); !slices.Equal(got, []uint16{0}) {
		t.Errorf("interrupts %d", got)
	}
	r.put(comStatus, 1, 0)
	r.Wait()
	r.wantStatus(0)
	r.dev.took()

	r.dev.startError = errors.New("its ring is not in memory")
	r.negotiate(FeatureVersion1)
	r.put(comConfigVector, 2, 1)
	r.setUp(0)
	r.setUp(1)
	r.put(comStatus, 1, 15)
	r.wantStatus(15 | StatusNeedsReset)
	if got := r.interrupts(); !slices.Equal(got, []uint16{1}) {
		t.Errorf("interrupts %d", got)
	}
	if calls := r.dev.took(); len(calls) != 2 || !strings.HasPrefix(calls[1], "start 0") {
		t.Errorf("%q: the queues after the one that failed are not started", calls)
	}
	r.put(3*pageBytes, 8, 0)
	r.put(comQueueVector, 2, 0)
	r.wantCalls()
	r.put(comStatus, 1, 0)
	r.wantStatus(0)
	r.wantCalls("reset")
}

// A size that RING_PACKED allowed cannot start in a split ring.
func TestPackedGivenUp(t *testing.T) {
	r := newRig(t)
	r.put(comDriverFeatureSelect, 4, 1)
	r.put(comDriverFeature, 4, FeatureRingPacked>>32)
	r.put(comQueueSize, 2, 100)
	r.setUp(0)
	r.negotiate(FeatureVersion1)
	r.put(comStatus, 1, 15)
	r.wantStatus(15 | StatusNeedsReset)
	r.wantCalls("features 0x100000000")
}

// "Virtqueue Reset" and "Virtqueue Re-enable".
func TestQueueReset(t *testing.T) {
	ready := func(d *fakeDevice, o *Options) { d.features |= FeatureRingReset }
	t.Run("at once", func(t *testing.T) {
		r := newRig(t, ready, func(_ *fakeDevice, o *Options) { o.ResetWait = time.Hour })
		r.run(FeatureVersion1 | FeatureRingReset)
		r.put(comQueueSelect, 2, 0)
		r.put(comQueueReset, 2, 2) // 1 resets, nothing else
		r.put(comQueueReset, 2, 1)
		r.wantCalls("stop 0")
		if a, b, c := r.get(comQueueReset, 2), r.get(comQueueEnable, 2), r.get(comQueueSize, 2); a != 0 || b != 0 || c != 256 {
			t.Errorf("queue_reset %d, queue_enable %d, queue_size %d", a, b, c)
		}
		r.put(3*pageBytes, 8, 0)
		r.wantCalls("notify 1")
		// Other values than before.
		r.put(comQueueSize, 2, 16)
		r.setUp(0)
		r.wantCalls("start 0 {Size:16 Desc:4294971392 Driver:4294975488 Device:4294979584 Vector:1}")
		r.put(comStatus, 1, 0)
		r.wantStatus(0)
		r.wantCalls("stop 0", "stop 1", "reset")
	})
	t.Run("takes time", func(t *testing.T) {
		hold := make(chan struct{})
		r := newRig(t, ready, func(d *fakeDevice, _ *Options) { d.hold = hold })
		r.run(FeatureVersion1 | FeatureRingReset)
		r.put(comQueueSelect, 2, 1)
		r.put(comQueueReset, 2, 1)
		r.put(comQueueReset, 2, 1)
		if a, b := r.get(comQueueReset, 2), r.get(comQueueEnable, 2); a != 1 || b != 1 {
			t.Errorf("queue_reset %d, queue_enable %d while it takes time", a, b)
		}
		r.put(comQueueVector, 2, 0)
		r.put(comQueueDesc, 8, 0)
		r.put(3*pageBytes, 8, 0)
		r.wantCalls("notify 0")
		if s := r.Save(); s.Queues[1].Running || !s.Queues[0].Running {
			t.Errorf("%+v", s.Queues)
		}
		close(hold)
		await(t, "end of the queue's reset", func() bool { return r.get(comQueueReset, 2) == 0 })
		if got := r.get(comQueueEnable, 2); got != 0 {
			t.Errorf("queue_enable %d", got)
		}
		r.wantCalls("stop 1")
		r.Reset()
		r.Wait()
		r.wantCalls("stop 0", "reset")
	})
	t.Run("the device is reset meanwhile", func(t *testing.T) {
		hold := make(chan struct{})
		r := newRig(t, ready, func(d *fakeDevice, _ *Options) { d.hold = hold })
		r.run(FeatureVersion1 | FeatureRingReset)
		r.put(comQueueSelect, 2, 1)
		r.put(comQueueReset, 2, 1)
		r.put(comStatus, 1, 0)
		r.wantStatus(15)
		close(hold)
		r.Wait()
		r.wantStatus(0)
		r.wantCalls("stop 1", "stop 0", "reset")
	})
	t.Run("not enabled", func(t *testing.T) {
		r := newRig(t, ready)
		r.negotiate(FeatureVersion1 | FeatureRingReset)
		r.put(comQueueSize, 2, 16)
		r.put(comQueueReset, 2, 1)
		if got := r.get(comQueueSize, 2); got != 256 {
			t.Errorf("queue_size %d", got)
		}
	})
}
