package frontend

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser"
)

// An Inflight is a back-end's record of requests in flight, which a front-end holds for the
// next back-end.
type Inflight struct {
	area vhostuser.InflightArea
	file *foreign.FD
}

// GetInflight asks for a record for so many queues of that size; needs
// INFLIGHT_SHMFD.
func (c *Client) GetInflight(queues int, size uint16) (*Inflight, error) {
	p, err := c.Get(vhostuser.GetInflightFD, vhostuser.InflightArea{Queues: uint16(queues), QueueSize: size}.Append(nil))
	if err != nil {
		return nil, err
	}
	area, err := vhostuser.ParseInflightArea(p)
	if err != nil {
		return nil, fmt.Errorf("answer to GET_INFLIGHT_FD: %w", err)
	}
	if len(c.m.Files) != 1 {
		return nil, fmt.Errorf("answer to GET_INFLIGHT_FD: %d descriptors", len(c.m.Files))
	}
	return &Inflight{area, c.m.Take(0)}, nil
}

// SetInflight passes a record to the back-end.
func (c *Client) SetInflight(v *Inflight) error {
	return c.Set(vhostuser.SetInflightFD, v.area.Append(nil), v.file.Int())
}

// FD lends the descriptor of the record out.
func (v *Inflight) FD() int { return v.file.Int() }

// Close releases the record.
func (v *Inflight) Close() error {
	if v == nil {
		return nil
	}
	return v.file.Close()
}

// Inflight is the disk's record; nil if none was requested.
func (d *Disk) Inflight() *Inflight { return d.inflight }

// keepInflight gets a record, if one was requested.
func (d *Disk) keepInflight() (err error) {
	if !d.opt.Inflight {
		return nil
	}
	if d.Client.Protocol&vhostuser.ProtocolInflightShmfd == 0 {
		return errors.New("the back-end offers no record of requests in flight")
	}
	if d.inflight, err = d.Client.GetInflight(d.opt.Queues, d.opt.QueueSize); err != nil {
		return err
	}
	return d.Client.SetInflight(d.inflight)
}

// Reconnect continues the disk over c, a connection to the next back-end, as QEMU does:
// what is in flight stays in flight, and each queue continues at the used index. No other
// method may be called meanwhile. On an error c is closed.
func (d *Disk) Reconnect(c *Client) error {
	_ = d.Client.Close() // it has returned its error already
	return d.goOn(c, func() error {
		if d.inflight == nil {
			return nil
		}
		return c.SetInflight(d.inflight)
	}, func(q *Queue) uint32 { return q.Ring().Rewound() })
}

// Move continues the disk over c, a connection to another back-end of it, as a machine does
// after a migration: the queues have been stopped, and continue at bases. It returns the
// old connection, which the caller now owns. On an error the disk still owns the old one,
// and the caller c.
func (d *Disk) Move(c *Client, bases []uint32) (was *Client, err error) {
	was = d.Client
	err = d.goOn(c, func() error {
		old := d.inflight
		return errors.Join(d.keepInflight(), old.Close())
	}, func(q *Queue) uint32 { return bases[q.Index()] })
	if err != nil {
		d.Client = was
		return nil, err
	}
	return was, nil
}

// goOn sets everything up again over c: record sets the record of requests in flight, and
// base returns where a queue continues.
func (d *Disk) goOn(c *Client, record func() error, base func(*Queue) uint32) error {
	d.Client = c
	return firstError(d.negotiate, d.acceptFeatures, d.share, record, func() error { return d.start(base) })
}
