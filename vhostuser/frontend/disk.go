package frontend

import (
	"errors"
	"fmt"
	"time"

	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// What a disk has over every transport is package blkclient's.
type (
	Queue       = blkclient.Queue
	Request     = blkclient.Request
	Segment     = blkclient.Segment
	StatusError = blkclient.StatusError
	Memory      = blkclient.Memory
	Region      = blkclient.Region
)

// The start of the guest's memory in its two address spaces.
const (
	GuestBase = blkclient.GuestBase
	UserBase  = blkclient.UserBase
)

// ErrFeatures is a device that does not accept the features.
var ErrFeatures = blkclient.ErrFeatures

// Status is the status in err, see blkclient.Status.
func Status(err error) byte { return blkclient.Status(err) }

// NewRegion makes a piece of guest memory, see blkclient.NewRegion.
func NewRegion(d guestmem.RegionDesc) (*Region, error) { return blkclient.NewRegion(d) }

// AllFeatures is every feature that this driver can use.
const AllFeatures = blkclient.AllFeatures | vhostuser.FeatureProtocol

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
	Inflight bool

	// The others are those of blkclient.Options.
	Queues       int
	QueueSize    uint16
	Depth        int
	BufferBytes  int
	SegmentBytes int
	Timeout      time.Duration
}

// common are the options that do not depend on the transport.
func (o Options) common() blkclient.Options {
	return blkclient.Options{
		Without: o.Without, Packed: o.Packed, Queues: o.Queues, QueueSize: o.QueueSize, Depth: o.Depth,
		BufferBytes: o.BufferBytes, SegmentBytes: o.SegmentBytes, Timeout: o.Timeout,
	}.WithDefaults()
}

// A Disk is a back-end's disk in use: negotiated, with memory and queues.
type Disk struct {
	*blkclient.Disk
	Client *Client

	opt      Options
	inflight *Inflight
}

// Virtio device status bits ("Device Status Field").
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
)

// Open makes a disk of c, which it owns, in the order of QEMU and of a driver: negotiation,
// configuration, memory, queues. On an error c is closed.
func Open(c *Client, o Options) (*Disk, error) {
	common := o.common()
	o.Queues, o.QueueSize, o.BufferBytes = common.Queues, common.QueueSize, common.BufferBytes
	d := &Disk{Client: c, opt: o}
	d.Disk = blkclient.New(link{d}, common)
	err := firstError(d.negotiate, d.readConfig, d.acceptFeatures, d.Allocate, d.share, d.keepInflight,
		func() error { return d.start(func(q *Queue) uint32 { return q.Ring().Base() }) })
	if err != nil {
		return nil, errors.Join(err, d.Abandon())
	}
	return d, nil
}

// OpenDisk is Open for a caller that uses nothing of vhost-user itself, so that it can use another
// transport in the same way.
func OpenDisk(c *Client, o blkclient.Options) (*blkclient.Disk, error) {
	d, err := Open(c, Options{
		Without: o.Without, Packed: o.Packed, Queues: o.Queues, QueueSize: o.QueueSize, Depth: o.Depth,
		BufferBytes: o.BufferBytes, SegmentBytes: o.SegmentBytes, Timeout: o.Timeout,
	})
	if err != nil {
		return nil, err
	}
	return d.Disk, nil
}

func (d *Disk) negotiate() error {
	c := d.Client
	offered, err := c.Features()
	if err != nil {
		return err
	}
	if err := d.Choose(offered, vhostuser.FeatureProtocol); err != nil {
		return err
	}
	queues := 1
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
		if queues, err = c.QueueNum(); err != nil {
			return err
		}
	}
	if err := d.SetQueues(queues); err != nil {
		return err
	}
	return c.SetOwner()
}

// readConfig reads the configuration space: a back-end without zones may have only its
// first 60 bytes.
func (d *Disk) readConfig() error {
	if d.Client.Protocol&vhostuser.ProtocolConfig == 0 {
		return nil
	}
	var space []byte
	for _, n := range []uint32{driver.BlkConfigBytes, 60} {
		b, err := d.Client.Config(0, n)
		if errors.As(err, new(RefusedError)) && n > 60 {
			continue
		}
		if err != nil {
			return err
		}
		space = b
		break
	}
	return d.ReadConfig(space)
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

// share shares the guest memory.
func (d *Disk) share() error {
	if d.Client.Protocol&vhostuser.ProtocolConfigureMemSlots != 0 {
		return d.Client.AddRegion(d.Memory.Region)
	}
	return d.Client.SetMemTable(d.Memory.Region)
}

// start starts all queues, each where base says.
func (d *Disk) start(base func(*Queue) uint32) error {
	if err := d.Start(base); err != nil || d.Client.Protocol&vhostuser.ProtocolStatus == 0 {
		return err
	}
	return d.Client.SetStatus(statusAcknowledge | statusDriver | statusFeaturesOK | statusDriverOK)
}

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

// link is what the queues of a disk use.
type link struct{ d *Disk }

func (t link) StartQueue(q *Queue, base uint32) error {
	c, i := t.d.Client, q.Index()
	return firstError(
		func() error { return c.SetVringNum(i, q.Ring().Config().Size) },
		func() error { return c.SetVringBase(i, base) },
		func() error { return c.SetVring(t.d.addr(q)) },
		func() error { return c.SetVringCall(i, q.CallFD()) },
		func() error { return c.SetVringKick(i, q.KickFD()) },
		func() error {
			if t.d.Features&vhostuser.FeatureProtocol == 0 {
				return nil // it is enabled already
			}
			return c.SetVringEnable(i, true)
		},
	)
}

func (t link) StopQueue(q *Queue) (base uint32, err error) {
	return t.d.Client.VringBase(q.Index())
}

func (t link) Notify(q *Queue) error { return q.SignalKick() }

func (t link) Watch() (conn, interrupt int) {
	return t.d.Client.sock.Int(), t.d.Client.wake.Int()
}

func (t link) Disconnect() error {
	err := errors.Join(t.d.Client.Close(), t.d.inflight.Close())
	t.d.inflight = nil
	return err
}

// addr is the message with the addresses of a queue's ring.
func (d *Disk) addr(q *Queue) vhostuser.VringAddr {
	m, l := d.Memory, q.Ring().Config()
	return vhostuser.VringAddr{Index: uint32(q.Index()), Desc: m.UserAddr(l.Desc), Avail: m.UserAddr(l.Avail), Used: m.UserAddr(l.Used)}
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
