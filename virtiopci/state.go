package virtiopci

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
)

// State is what another process needs to continue a function, as plain data.
type State struct {
	Config []byte // PCI configuration space
	Table  []byte // MSI-X table

	DeviceFeatureSelect, DriverFeatureSelect uint32
	DriverFeatures                           uint64
	Status                                   uint8 // with DEVICE_NEEDS_RESET
	Generation                               uint8
	ISR                                      uint8
	ConfigVector                             uint16
	QueueSelect                              uint16
	ConfigRaised                             bool   // a configuration change of which the driver was not notified
	Shown                                    []byte // the device configuration as the driver has last read it
	Queues                                   []QueueState
}

// QueueState is a queue in a State.
type QueueState struct {
	Queue
	Enabled, Running bool
}

// Save returns the state of the function. A reset that is under way, of the device or of a queue,
// counts as ended: no queue runs in a process that has ended.
func (f *Function) Save() State {
	f.settle()
	s := State{
		Config: bytes.Clone(f.config[:]), Table: bytes.Clone(f.table),
		Generation: f.generation, Shown: bytes.Clone(f.shown),
		ConfigVector: NoVector,
	}
	for i := range f.queues {
		q := f.queues[i]
		if f.resetting != nil || q.ending != nil {
			f.clearQueue(&q)
		}
		s.Queues = append(s.Queues, QueueState{q.Queue, q.enabled, q.running})
	}
	if f.resetting != nil {
		return s
	}
	s.DeviceFeatureSelect, s.DriverFeatureSelect, s.DriverFeatures = f.deviceFeatureSelect, f.driverFeatureSelect, f.driverFeatures
	s.Status, s.ISR, s.QueueSelect = f.deviceStatus(), uint8(f.isr.Load()), f.queueSelect
	s.ConfigVector, s.ConfigRaised = uint16(f.configVector.Load()), f.raised.Load()
	return s
}

// Restore takes over a state that Save has returned for a function with the same options and
// features. It calls nothing of the device: whoever restores it sets its features and starts the
// queues that run (see Function.Queue). After an error nothing has changed.
func (f *Function) Restore(s State) error {
	if f.pending != 0 || f.driverOK.Load() {
		return errors.New("virtiopci: a state is restored into a function that is in use")
	}
	if err := f.checkState(&s); err != nil {
		return fmt.Errorf("virtiopci: state: %w", err)
	}
	copy(f.config[:], s.Config)
	copy(f.table, s.Table)
	copy(f.shown, s.Shown)
	f.deviceFeatureSelect, f.driverFeatureSelect, f.driverFeatures = s.DeviceFeatureSelect, s.DriverFeatureSelect, s.DriverFeatures
	f.status, f.generation, f.queueSelect = s.Status&^StatusNeedsReset, s.Generation, s.QueueSelect
	for i, q := range s.Queues {
		f.queues[i] = queue{Queue: q.Queue, enabled: q.Enabled, running: q.Running}
	}
	f.configVector.Store(uint32(s.ConfigVector))
	f.isr.Store(uint32(s.ISR))
	f.needsReset.Store(s.Status&StatusNeedsReset != 0)
	f.raised.Store(s.ConfigRaised)
	f.driverOK.Store(f.status&StatusDriverOK != 0)
	return nil
}

// checkState refuses a state that this function cannot be in.
func (f *Function) checkState(s *State) error {
	if len(s.Config) != configBytes || len(s.Table) != len(f.table) || len(s.Shown) != len(f.shown) || len(s.Queues) != len(f.queues) {
		return fmt.Errorf("%d bytes of configuration space, %d of MSI-X table, %d of device configuration, %d queues: there are %d, %d, %d and %d",
			len(s.Config), len(s.Table), len(s.Shown), len(s.Queues), configBytes, len(f.table), len(f.shown), len(f.queues))
	}
	for i, v := range s.Config {
		ro := ^f.writable[i]
		if i == regStatus {
			ro &^= statusInterrupt
		}
		if (v^f.config[i])&ro != 0 {
			return fmt.Errorf("byte %#x of configuration space is %#x, not %#x", i, v, f.config[i])
		}
	}
	for i, v := range s.Table {
		if (v^f.table[i])&^f.tableMask[i] != 0 {
			return fmt.Errorf("byte %#x of the MSI-X table is %#x", i, v)
		}
	}
	if unknown := s.Status &^ (statusWritable | StatusNeedsReset); unknown != 0 {
		return fmt.Errorf("unknown bits in the device status %#x", s.Status)
	}
	if s.Status&StatusDriverOK != 0 && s.Status&StatusFeaturesOK == 0 {
		return fmt.Errorf("device status %#x: DRIVER_OK without FEATURES_OK", s.Status)
	}
	if s.Status&StatusFeaturesOK != 0 && (s.DriverFeatures&^f.offered != 0 || s.DriverFeatures&FeatureVersion1 == 0) {
		return fmt.Errorf("the driver has accepted %#x, %#x is offered", s.DriverFeatures, f.offered)
	}
	if s.ISR&^isrConfig != 0 {
		return fmt.Errorf("ISR status %#x", s.ISR)
	}
	if !f.mapped(s.ConfigVector) {
		return fmt.Errorf("configuration vector %d of %d", s.ConfigVector, f.opt.Vectors)
	}
	for i, q := range s.Queues {
		switch {
		case q.Size == 0 || q.Size > f.opt.QueueSize:
			return fmt.Errorf("queue %d has %d descriptors, at most %d are possible", i, q.Size, f.opt.QueueSize)
		case !f.mapped(q.Vector):
			return fmt.Errorf("queue %d has vector %d of %d", i, q.Vector, f.opt.Vectors)
		case q.Running && (!q.Enabled || s.Status&StatusDriverOK == 0):
			return fmt.Errorf("queue %d runs and is not enabled, or the driver does not run", i)
		case q.Running && s.DriverFeatures&FeatureRingPacked == 0 && bits.OnesCount16(q.Size) != 1:
			return fmt.Errorf("queue %d runs with %d descriptors in a split ring", i, q.Size)
		}
	}
	return nil
}

// mapped says whether an event can have this vector.
func (f *Function) mapped(v uint16) bool { return v == NoVector || int(v) < f.opt.Vectors }
