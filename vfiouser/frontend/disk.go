package frontend

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/vfiouser/client"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtiopci/pcidriver"
)

// blockDevice is the virtio device ID of a block device.
const blockDevice = 2

// A Disk is a server's disk in use: negotiated, with memory and queues.
type Disk struct {
	*blkclient.Disk
	Client *Client
	// PCI is the function's registers. Only one goroutine may use it, beside the queues'
	// notifications.
	PCI *pcidriver.Device

	reset bool // all queues are stopped
}

// Open makes a disk of c, which it owns, in the order of QEMU and of a driver: discovery, features,
// configuration, memory, interrupts, queues. On an error c is closed.
func Open(c *Client, o blkclient.Options) (*Disk, error) {
	d := &Disk{Client: c}
	d.Disk = blkclient.New(link{d}, o)
	for _, step := range []func() error{d.connect, d.probe, d.negotiate, d.readConfig, d.Allocate, d.share, d.setIRQs, d.start} {
		if err := step(); err != nil {
			return nil, errors.Join(err, d.Abandon())
		}
	}
	return d, nil
}

// OpenDisk is Open for a caller that uses nothing of vfio-user itself, so that it can use another
// transport in the same way.
func OpenDisk(c *Client, o blkclient.Options) (*blkclient.Disk, error) {
	d, err := Open(c, o)
	if err != nil {
		return nil, err
	}
	return d.Disk, nil
}

// connect negotiates the protocol's version.
func (d *Disk) connect() error {
	c := d.Client
	return c.limited(func() (err error) {
		c.vfio, err = client.New(c.uc)
		return err
	})
}

// probe finds the virtio device, and enables it on its bus.
func (d *Disk) probe() (err error) {
	a := access{d.Client}
	if d.PCI, err = pcidriver.Probe(a); err != nil {
		return err
	}
	if d.PCI.Type != blockDevice {
		return fmt.Errorf("it is a virtio device of type %d, not a block device", d.PCI.Type)
	}
	const memorySpace, busMaster = 2, 4
	return a.WriteConfig([]byte{memorySpace | busMaster, 0}, 4)
}

func (d *Disk) negotiate() error {
	if err := d.PCI.Reset(); err != nil {
		return err
	}
	offered, err := d.PCI.Offered()
	if err != nil {
		return err
	}
	if err := d.Choose(offered, 0); err != nil {
		return err
	}
	err = d.PCI.Negotiate(d.Features)
	if errors.Is(err, pcidriver.ErrFeatures) {
		return fmt.Errorf("%w: %#x", blkclient.ErrFeatures, d.Features)
	}
	return err
}

func (d *Disk) readConfig() error {
	n, err := d.PCI.Queues()
	if err != nil {
		return err
	}
	if err := d.SetQueues(n); err != nil {
		return err
	}
	most, err := d.PCI.QueueSize(0)
	if err != nil {
		return err
	}
	d.LimitQueueSize(most)
	space := make([]byte, min(driver.BlkConfigBytes, d.PCI.Config.Length))
	if err := d.PCI.ReadDeviceConfig(space, 0); err != nil {
		return err
	}
	return d.ReadConfig(space)
}

// share gives the device the guest memory.
func (d *Disk) share() error {
	r := d.Memory.Region.Desc()
	return d.Client.limited(func() error {
		return d.Client.vfio.Map(r.GuestAddr, r.Size, r.MmapOffset, d.Memory.Region.FD())
	})
}

// setIRQs gives each queue a vector of its own, the first one being for configuration changes, if
// there are as many; the other queues have none, and are polled.
func (d *Disk) setIRQs() error {
	if err := d.PCI.EnableMSIX(true); err != nil {
		return err
	}
	var fds []int
	for i := range d.Started() {
		if d.vector(i) != pcidriver.NoVector {
			fds = append(fds, d.Queue(i).CallFD())
		}
	}
	return d.Client.limited(func() error { return d.Client.vfio.SetEventfds(msixIndex, 1, fds...) })
}

func (d *Disk) vector(queue int) uint16 {
	if queue+1 >= d.PCI.Vectors {
		return pcidriver.NoVector
	}
	return uint16(queue + 1)
}

func (d *Disk) start() error {
	if err := d.Start(func(q *blkclient.Queue) uint32 { return q.Ring().Base() }); err != nil {
		return err
	}
	return d.PCI.Start()
}

// link is what the queues of a disk use.
type link struct{ d *Disk }

var errBase = errors.New("a queue of a PCI device begins at its beginning")

func (l link) StartQueue(q *blkclient.Queue, base uint32) error {
	if base != q.Ring().Base() {
		return errBase
	}
	return l.d.PCI.SetUpQueue(q.Index(), q.Ring().Config(), l.d.vector(q.Index()))
}

// StopQueue resets the device, which stops all queues, once the device has answered what it has
// popped: a driver of a PCI device cannot stop one alone. They do not start again.
func (l link) StopQueue(*blkclient.Queue) (base uint32, err error) {
	if l.d.reset {
		return 0, nil
	}
	l.d.reset = true
	return 0, l.d.PCI.Reset()
}

func (l link) Notify(q *blkclient.Queue) error { return l.d.PCI.Notify(q.Index()) }

func (l link) Watch() (conn, interrupt int) {
	return l.d.Client.sock.Int(), l.d.Client.wake.Int()
}

func (l link) Disconnect() error { return l.d.Client.Close() }
