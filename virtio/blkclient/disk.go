package blkclient

import (
	"errors"
	"fmt"
	"time"

	"github.com/zvhost/zvhost/virtio/driver"
)

// AllFeatures is every feature that this driver can use. A front-end adds its transport's.
const AllFeatures = driver.FeatureVersion1 | driver.FeatureEventIdx | driver.FeatureIndirectDesc | driver.FeatureRingPacked |
	driver.BlkSizeMax | driver.BlkSegMax | driver.BlkRO | driver.BlkBlkSize | driver.BlkFlush | driver.BlkTopology |
	driver.BlkConfigWCE | driver.BlkMQ | driver.BlkDiscard | driver.BlkWriteZeroes | driver.BlkSecureErase | driver.BlkZoned

// Options configure a disk. The zero value is valid.
type Options struct {
	// Without are features not to accept although they are offered.
	Without uint64
	// Packed asks for packed rings; it is an error if they are not offered.
	Packed bool
	Queues int // how many to start; 0: 1
	// QueueSize is the descriptors in each, a power of two in split rings; 0: 128. They are fewer
	// if the back-end has fewer and says so.
	QueueSize uint16
	// Depth is how many requests each queue has; 0: QueueSize/4, at least 1. They fit into
	// the ring at once if INDIRECT_DESC was accepted, or QueueSize is 3 times as large.
	Depth       int
	BufferBytes int // most data of one request; 0: 64 KiB
	// SegmentBytes is the most data in one descriptor; 0: as much as the disk
	// allows.
	SegmentBytes int
	// Timeout is the initial Queue.Timeout; 0: 30 seconds, below 0: none.
	Timeout time.Duration
}

// WithDefaults returns o with values in place of zeroes; then a Timeout of 0 is none.
func (o Options) WithDefaults() Options {
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.QueueSize == 0 {
		o.QueueSize = 128
	}
	if o.Depth == 0 {
		o.Depth = max(1, int(o.QueueSize)/4)
	}
	if o.BufferBytes == 0 {
		o.BufferBytes = 64 << 10
	}
	switch {
	case o.Timeout == 0:
		o.Timeout = 30 * time.Second
	case o.Timeout < 0:
		o.Timeout = 0
	}
	return o
}

// The ends of a wait.
var (
	// ErrGone is a back-end that has closed the connection.
	ErrGone = errors.New("the back-end has closed the connection")
	// ErrTimeout is a back-end that did not answer within Timeout.
	ErrTimeout = errors.New("the back-end has not answered")
	// ErrInterrupted is a wait that was ended on this side.
	ErrInterrupted = errors.New("interrupted")
	// ErrFeatures is a device that does not accept the features.
	ErrFeatures = errors.New("the device does not take these features")
)

// A Transport is how a disk reaches its device: a front-end.
type Transport interface {
	// StartQueue sets a queue up in the device, to continue at base, and starts it.
	StartQueue(q *Queue, base uint32) error
	// StopQueue stops a queue in the device, which first answers what it has popped, and
	// returns where the device would have continued.
	StopQueue(q *Queue) (base uint32, err error)
	// Notify notifies the device of a queue. Goroutines of different queues may call it.
	Notify(q *Queue) error
	// Watch lends two descriptors out: the connection's, which has POLLRDHUP when the
	// back-end has gone, and one that is readable once waits are interrupted.
	Watch() (conn, interrupt int)
	// Disconnect ends the connection, and releases what the front-end has for it.
	Disconnect() error
}

// A Disk is a back-end's disk in use: negotiated, with memory and queues. A front-end makes it in
// the order of New, ReadConfig, Allocate, Start.
type Disk struct {
	Offered  uint64 // features of the back-end
	Features uint64 // features accepted
	Queues   int    // queues that the back-end has
	// Config is the configuration space; zero if the back-end has none, ConfigBytes its
	// length.
	Config      driver.BlkConfig
	ConfigBytes int
	Memory      *Memory

	opt          Options // with defaults
	queues       []*Queue
	segmentBytes int
	transport    Transport
}

// New makes a disk whose device is reached through t.
func New(t Transport, o Options) *Disk {
	o = o.WithDefaults()
	return &Disk{transport: t, opt: o, Queues: 1, segmentBytes: o.BufferBytes}
}

// Choose accepts those of the offered features that this driver can use, beside those of the
// transport.
func (d *Disk) Choose(offered, transport uint64) error {
	d.Offered = offered
	d.Features = offered & (AllFeatures | transport) &^ d.opt.Without
	if !d.opt.Packed {
		d.Features &^= driver.FeatureRingPacked
	} else if d.Features&driver.FeatureRingPacked == 0 {
		return errors.New("the back-end offers no packed rings")
	}
	return nil
}

// SetQueues says how many queues the back-end has. It fails if they are not enough.
func (d *Disk) SetQueues(n int) error {
	d.Queues = n
	if d.opt.Queues > n {
		return fmt.Errorf("the back-end has %d queues, %d are too many", n, d.opt.Queues)
	}
	return nil
}

// LimitQueueSize says how many descriptors a queue of the back-end has at most: a driver takes fewer
// than it would then.
func (d *Disk) LimitQueueSize(n uint16) { d.opt.QueueSize = min(d.opt.QueueSize, n) }

// ReadConfig takes the configuration space over, what the back-end has of it.
func (d *Disk) ReadConfig(b []byte) (err error) {
	space := make([]byte, driver.BlkConfigBytes)
	d.ConfigBytes = copy(space, b)
	if d.Config, err = driver.ParseBlkConfig(space); err != nil {
		return err
	}
	if n := int(d.Config.SizeMax); n > 0 && d.Features&driver.BlkSizeMax != 0 {
		d.segmentBytes = min(d.segmentBytes, n)
	}
	return nil
}

// Allocate makes the guest memory that the queues need, and the queues.
func (d *Disk) Allocate() (err error) {
	o := d.opt
	if o.SegmentBytes > 0 {
		d.segmentBytes = min(d.segmentBytes, o.SegmentBytes)
	}
	segments := (o.BufferBytes + d.segmentBytes - 1) / d.segmentBytes
	if most := int(d.Config.SegMax); d.Features&driver.BlkSegMax != 0 && most != 0 && segments > most {
		return fmt.Errorf("requests of %d bytes in segments of %d have %d of them, the disk allows %d", o.BufferBytes, d.segmentBytes, segments, most)
	}
	// Each allocation rounded up to pages of 4096 bytes is more than enough.
	request := roundUp(o.BufferBytes) + roundUp(driver.BlkScratchBytes) + roundUp(16*(segments+2))
	queue := roundUp(int(driver.RingBytes(o.QueueSize))) + o.Depth*request
	if d.Memory, err = NewMemory(uint64(o.Queues * queue)); err != nil {
		return err
	}
	for i := range o.Queues {
		q, err := newQueue(d, i)
		if err != nil {
			return err
		}
		d.queues = append(d.queues, q)
	}
	return nil
}

func roundUp(n int) int { return (n + 4095) &^ 4095 }

// Start starts all queues, each where base says.
func (d *Disk) Start(base func(*Queue) uint32) error {
	for _, q := range d.queues {
		if err := q.Start(base(q)); err != nil {
			return err
		}
	}
	return nil
}

// Packed reports whether the rings are packed.
func (d *Disk) Packed() bool { return d.Features&driver.FeatureRingPacked != 0 }

// Started is how many queues there are.
func (d *Disk) Started() int { return len(d.queues) }

// Queue returns queue i of those that were started.
func (d *Disk) Queue(i int) *Queue { return d.queues[i] }

// Close stops the queues, disconnects, and releases everything. Requests in flight are
// answered first, but the caller does not get the answers.
func (d *Disk) Close() error {
	var err error
	for _, q := range d.queues {
		_, e := q.Stop()
		err = errors.Join(err, e)
	}
	return errors.Join(err, d.Abandon())
}

// Abandon disconnects as a front-end does that was killed: the connection ends whatever is
// in flight. The back-end may continue to write to the memory that it has mapped, without
// effect.
func (d *Disk) Abandon() error {
	err := d.transport.Disconnect()
	for _, q := range d.queues {
		err = errors.Join(err, q.close())
	}
	d.queues = nil
	if d.Memory != nil {
		err = errors.Join(err, d.Memory.Close())
		d.Memory = nil
	}
	return err
}
