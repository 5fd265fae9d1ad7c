package virtiopci

import (
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"
)

// ErrRange is an access that does not lie in the space that it is for.
var ErrRange = errors.New("virtiopci: outside of the register space")

// NoVector says that an event has no interrupt (VIRTIO_MSI_NO_VECTOR).
const NoVector = 0xffff

// Limits of a function.
const (
	MaxQueues      = pageBytes / notifyMultiplier
	MaxVectors     = 2048 // MSI-X Table Size has 11 bits
	MaxQueueSize   = 32768
	MaxConfigBytes = pageBytes
)

// Feature bits that concern the transport ("Reserved Feature Bits").
const (
	FeatureVersion1         uint64 = 1 << 32
	FeatureRingPacked       uint64 = 1 << 34
	FeatureSRIOV            uint64 = 1 << 37
	FeatureNotificationData uint64 = 1 << 38
	FeatureNotifConfigData  uint64 = 1 << 39
	FeatureRingReset        uint64 = 1 << 40
	FeatureAdminVQ          uint64 = 1 << 41

	// The function implements these; the device is not asked to accept them.
	ownFeatures = FeatureNotificationData | FeatureNotifConfigData | FeatureRingReset
	// These need capabilities that the function does not have.
	absentFeatures = FeatureSRIOV | FeatureAdminVQ
)

// A Device is the virtio device behind a function. The function makes one call at a time: from the
// goroutine that accesses registers, and a reset's calls from another one. Only if RING_RESET is
// offered may StopQueue run beside calls that are not about its queue. A device may call
// [Function.ConfigChanged] and [Function.NeedsReset] from any goroutine.
type Device interface {
	// Features is every feature bit that the device offers, VERSION_1 among them. Of the
	// function's own bits it offers those that it wants the function to offer. It never changes.
	Features() uint64
	// SetFeatures says what the driver has accepted, a subset of Features without the function's
	// own bits, VERSION_1 among them. After an error FEATURES_OK is not set, and the driver may
	// try again. No queue runs.
	SetFeatures(accepted uint64) error
	// ReadConfig fills dst from the device's configuration space at byte off. dst lies within
	// Options.ConfigBytes. After an error it reads as 0.
	ReadConfig(dst []byte, off uint32) error
	// WriteConfig is the driver's write. An error is logged and has no other effect.
	WriteConfig(src []byte, off uint32) error
	// StartQueue starts queue i. The addresses are what the driver has written, unchecked.
	// After an error the queue does not run and the device needs a reset.
	StartQueue(i int, q Queue) error
	// StopQueue returns when queue i does not access guest memory any more and notifies nobody.
	StopQueue(i int)
	// SetVector changes the interrupt vector of a queue that runs.
	SetVector(i int, vector uint16)
	// Notify is an available buffer notification of a queue that runs. It must not wait.
	Notify(i int)
	// Reset puts the device back to where it was before SetFeatures. No queue runs.
	Reset()
}

// A Queue is how a driver has set up a virtqueue.
type Queue struct {
	Size uint16 // descriptors
	// Addresses of the descriptor, driver and device areas, as the driver's PCI device sees
	// memory.
	Desc, Driver, Device uint64
	Vector               uint16 // of used buffer notifications, or NoVector
}

// Options are what does not change in the life of a function.
type Options struct {
	Type            uint16 // virtio device ID: 2 is a block device
	Class           uint32 // PCI class code, 24 bits: base class, subclass, interface
	SubsystemVendor uint16 // 0: 0x1af4
	Subsystem       uint16 // 0: the PCI device ID
	Queues          int    // 1 to MaxQueues
	QueueSize       uint16 // most descriptors of a queue, a power of two; 0: 256
	ConfigBytes     int    // length of the device's configuration space, 0 to MaxConfigBytes
	Vectors         int    // MSI-X vectors; 0: one for each queue and one for configuration changes
	// Interrupt sends the message of an MSI-X vector for a configuration change, from any
	// goroutine; it must not wait. nil: nothing is sent.
	Interrupt func(vector uint16)
	// Log gets one line for each thing that the device refuses; nil: nothing is logged.
	Log func(format string, args ...any)
	// ResetWait is how long the access that begins a reset may wait for its end, for drivers
	// that do not read the device status back; 0: one second, below 0: it does not wait.
	ResetWait time.Duration
}

// check completes o, and refuses what cannot be served.
func (o *Options) check() error {
	if o.SubsystemVendor == 0 {
		o.SubsystemVendor = vendorID
	}
	if o.Subsystem == 0 {
		o.Subsystem = deviceIDBase + o.Type
	}
	if o.QueueSize == 0 {
		o.QueueSize = 256
	}
	if o.Vectors == 0 {
		o.Vectors = min(o.Queues+1, MaxVectors)
	}
	if o.ResetWait == 0 {
		o.ResetWait = time.Second
	}
	if o.Interrupt == nil {
		o.Interrupt = func(uint16) {}
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	switch {
	case o.Type < 1 || o.Type > 0x3f:
		return fmt.Errorf("virtiopci: device type %d has no PCI device ID", o.Type)
	case o.Class > 0xffffff:
		return fmt.Errorf("virtiopci: class %#x has more than 24 bits", o.Class)
	case o.Queues < 1 || o.Queues > MaxQueues:
		return fmt.Errorf("virtiopci: %d queues, 1 to %d are possible", o.Queues, MaxQueues)
	case o.QueueSize > MaxQueueSize || bits.OnesCount16(o.QueueSize) != 1:
		return fmt.Errorf("virtiopci: queue size %d is not a power of two up to %d", o.QueueSize, MaxQueueSize)
	case o.ConfigBytes < 0 || o.ConfigBytes > MaxConfigBytes:
		return fmt.Errorf("virtiopci: %d bytes of device configuration, at most %d are possible", o.ConfigBytes, MaxConfigBytes)
	case o.Vectors < 1 || o.Vectors > MaxVectors:
		return fmt.Errorf("virtiopci: %d interrupt vectors, 1 to %d are possible", o.Vectors, MaxVectors)
	}
	return nil
}

// A Function is the register file of one device. One goroutine at a time accesses registers;
// ConfigChanged and NeedsReset may be called from any.
type Function struct {
	dev     Device
	opt     Options
	offered uint64
	area    areas

	config    [configBytes]byte
	writable  [configBytes]byte // the bits of config that the driver can write
	table     []byte            // MSI-X table
	tableMask []byte

	deviceFeatureSelect, driverFeatureSelect uint32
	driverFeatures                           uint64 // as written; once FEATURES_OK is set, accepted
	status                                   uint8  // without DEVICE_NEEDS_RESET
	generation                               uint8
	shown                                    []byte // the device configuration as it was last read
	fresh                                    []byte
	queueSelect                              uint16
	queues                                   []queue

	resetting chan struct{} // not nil during a reset; closed when the device has stopped
	pending   int           // resets that have not ended, of the device and of queues

	// What the device changes from its own goroutines.
	configVector atomic.Uint32
	isr          atomic.Uint32
	driverOK     atomic.Bool
	needsReset   atomic.Bool
	raised       atomic.Bool // a configuration interrupt is due
}

// queue is one virtqueue's registers.
type queue struct {
	Queue
	enabled bool
	running bool          // between StartQueue and StopQueue
	ending  chan struct{} // not nil while queue_reset is under way; closed when the queue has stopped
}

// New makes the function of dev.
func New(dev Device, o Options) (*Function, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	f := &Function{
		dev: dev, opt: o, offered: dev.Features() &^ absentFeatures, area: layOut(o),
		shown: make([]byte, o.ConfigBytes), fresh: make([]byte, o.ConfigBytes),
		queues: make([]queue, o.Queues),
	}
	if f.offered&FeatureVersion1 == 0 {
		return nil, errors.New("virtiopci: the device does not offer VERSION_1")
	}
	f.initConfig()
	f.initTable()
	f.clear()
	f.readDevice(f.shown)
	return f, nil
}

// BARBytes is the size of BAR 0.
func (f *Function) BARBytes() uint64 { return uint64(f.area.size) }

// Vectors is how many MSI-X vectors there are.
func (f *Function) Vectors() int { return f.opt.Vectors }

// Queue returns the registers of queue i, and whether it runs.
func (f *Function) Queue(i int) (q Queue, running bool) {
	f.settle()
	return f.queues[i].Queue, f.queues[i].running
}
