package frontend

import (
	"errors"
	"fmt"
	"time"

	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// AllFeatures is every feature that this driver can use.
const AllFeatures = driver.FeatureVersion1 | driver.FeatureEventIdx | driver.FeatureIndirectDesc | driver.FeatureRingPacked |
	driver.BlkSizeMax | driver.BlkSegMax | driver.BlkRO | driver.BlkBlkSize | driver.BlkFlush | driver.BlkTopology |
	driver.BlkConfigWCE | driver.BlkMQ | driver.BlkDiscard | driver.BlkWriteZeroes | driver.BlkSecureErase | driver.BlkZoned |
	vhostuser.FeatureProtocol

// Options configure the front-end. The zero value is valid.
type Options struct {
	// Without are features not to accept although they are offered; with
	// vhostuser.FeatureProtocol there are no protocol features (and so no configuration
	// space).
	Without uint64
	// WithoutProtocol are protocol features not to accept although they are offered.
	WithoutProtocol uint64
	// Packed asks for packed rings; Open fails if they are not offered.
	Packed bool
	// Inflight asks for a record of requests in flight, so that Reconnect can continue
	// them.
	Inflight  bool
	Queues    int    // how many to start; 0: 1
	QueueSize uint16 // descriptors in each, a power of two in split rings; 0: 128
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

func (o Options) withDefaults() Options {
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

// A Disk is a back-end's disk in use: negotiated, with memory and queues.
type Disk struct {
	Client   *Client
	Offered  uint64 // features of the back-end
	Features uint64 // features accepted
	Queues   int    // queues that the back-end has
	// Config is the configuration space; zero if the back-end has none, ConfigBytes its
	// length.
	Config      driver.BlkConfig
	ConfigBytes int
	Memory      *Memory

	opt          Options
	queues       []*Queue
	segmentBytes int
	inflight     *Inflight
}

// Virtio device status bits ("Device Status Field").
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
)

// ErrFeatures is a device that does not accept the features.
var ErrFeatures = errors.New("the device does not take these features")

// Open makes a disk of c, which it owns, in the order of QEMU and of a driver: negotiation,
// configuration, memory, queues. On an error c is closed.
func Open(c *Client, o Options) (*Disk, error) {
	d := &Disk{Client: c, opt: o.withDefaults()}
	if err := firstError(d.negotiate, d.readConfig, d.acceptFeatures, d.shareMemory, d.keepInflight, d.startQueues); err != nil {
		return nil, errors.Join(err, d.Abandon())
	}
	return d, nil
}

func (d *Disk) negotiate() (err error) {
	c := d.Client
	if d.Offered, err = c.Features(); err != nil {
		return err
	}
	d.Features = d.Offered & AllFeatures &^ d.opt.Without
	if !d.opt.Packed {
		d.Features &^= driver.FeatureRingPacked
	} else if d.Features&driver.FeatureRingPacked == 0 {
		return errors.New("the back-end offers no packed rings")
	}
	d.Queues = 1
	if d.Features&vhostuser.FeatureProtocol != 0 {
		p, err := c.ProtocolFeatures()
		if err != nil {
			return err
		}
		if err := c.SetProtocolFeatures(p & vhostuser.Offered &^ d.opt.WithoutProtocol); err != nil {
			return err
		}
	}
	if c.Protocol&vhostuser.ProtocolMQ != 0 {
		if d.Queues, err = c.QueueNum(); err != nil {
			return err
		}
	}
	if d.opt.Queues > d.Queues {
		return fmt.Errorf("the back-end has %d queues, %d are too many", d.Queues, d.opt.Queues)
	}
	return c.SetOwner()
}

// readConfig reads the configuration space: a back-end without zones may have only its
// first 60 bytes.
func (d *Disk) readConfig() error {
	d.segmentBytes = d.opt.BufferBytes
	if d.Client.Protocol&vhostuser.ProtocolConfig != 0 {
		space := make([]byte, driver.BlkConfigBytes)
		for _, n := range []uint32{driver.BlkConfigBytes, 60} {
			b, err := d.Client.Config(0, n)
			if errors.As(err, new(RefusedError)) && n > 60 {
				continue
			}
			if err != nil {
				return err
			}
			d.ConfigBytes = copy(space, b)
			break
		}
		var err error
		if d.Config, err = driver.ParseBlkConfig(space); err != nil {
			return err
		}
		if n := int(d.Config.SizeMax); n > 0 && d.Features&driver.BlkSizeMax != 0 {
			d.segmentBytes = min(d.segmentBytes, n)
		}
	}
	if n := d.opt.SegmentBytes; n > 0 {
		d.segmentBytes = min(d.segmentBytes, n)
	}
	return nil
}

// acceptFeatures is steps 1 to 6 of "Device Initialization".
func (d *Disk) acceptFeatures() error {
	c := d.Client
	if c.Protocol&vhostuser.ProtocolStatus == 0 {
		return c.SetFeatures(d.Features)
	}
	const status = statusAcknowledge | statusDriver
	err := firstError(
		func() error { return c.SetStatus(0) },
		func() error { return c.SetStatus(status) },
		func() error { return c.SetFeatures(d.Features) },
		func() error { return c.SetStatus(status | statusFeaturesOK) },
	)
	if err != nil {
		return err
	}
	got, err := c.Status()
	if err == nil && got&statusFeaturesOK == 0 {
		err = fmt.Errorf("%w: %#x", ErrFeatures, d.Features)
	}
	return err
}

// shareMemory creates the guest memory that the queues need.
func (d *Disk) shareMemory() (err error) {
	o := d.opt
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
	return d.shareAgain()
}

// shareAgain shares the existing memory.
func (d *Disk) shareAgain() error {
	if d.Client.Protocol&vhostuser.ProtocolConfigureMemSlots != 0 {
		return d.Client.AddRegion(d.Memory.Region)
	}
	return d.Client.SetMemTable(d.Memory.Region)
}

func roundUp(n int) int { return (n + 4095) &^ 4095 }

func (d *Disk) startQueues() error {
	for i := range d.opt.Queues {
		q, err := newQueue(d, i)
		if err != nil {
			return err
		}
		d.queues = append(d.queues, q)
		if err := q.start(q.ring.Base()); err != nil {
			return err
		}
	}
	if d.Client.Protocol&vhostuser.ProtocolStatus == 0 {
		return nil
	}
	return d.Client.SetStatus(statusAcknowledge | statusDriver | statusFeaturesOK | statusDriverOK)
}

// Packed reports whether the rings are packed.
func (d *Disk) Packed() bool { return d.Features&driver.FeatureRingPacked != 0 }

// Queue returns queue i of those that were started.
func (d *Disk) Queue(i int) *Queue { return d.queues[i] }

// AddRegion adds a region to the guest's memory beside Memory, for tests.
func (d *Disk) AddRegion(desc guestmem.RegionDesc) (*Region, error) {
	r, err := NewRegion(desc)
	if err != nil {
		return nil, err
	}
	if err := d.Client.AddRegion(r); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

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
	err := d.Client.Close()
	for _, q := range d.queues {
		err = errors.Join(err, q.close())
	}
	d.queues = nil
	err = errors.Join(err, d.inflight.Close())
	d.inflight = nil
	if d.Memory != nil {
		err = errors.Join(err, d.Memory.Close())
		d.Memory = nil
	}
	return err
}
