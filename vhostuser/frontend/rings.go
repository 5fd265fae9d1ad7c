package frontend

import (
	"fmt"

	"github.com/zvhost/zvhost/vhostuser"
)

// The messages that set up, start and stop ring i.

func (c *Client) setState(r vhostuser.Request, i int, num uint32) error {
	return c.Set(r, vhostuser.VringState{Index: uint32(i), Num: num}.Append(nil))
}

// SetVringNum sets the ring's number of descriptors.
func (c *Client) SetVringNum(i int, n uint16) error {
	return c.setState(vhostuser.SetVringNum, i, uint32(n))
}

// SetVringBase sets where the back-end continues: in a split ring the next avail index to
// pop, for a packed ring see driver.Ring.Base.
func (c *Client) SetVringBase(i int, base uint32) error {
	return c.setState(vhostuser.SetVringBase, i, base)
}

// VringBase stops the ring, once the back-end has answered all that it popped, and returns
// where it would have continued.
func (c *Client) VringBase(i int) (uint32, error) {
	p, err := c.Get(vhostuser.GetVringBase, vhostuser.VringState{Index: uint32(i)}.Append(nil))
	if err != nil {
		return 0, err
	}
	v, err := vhostuser.ParseVringState(p)
	if err != nil {
		return 0, fmt.Errorf("answer to GET_VRING_BASE: %w", err)
	}
	if v.Index != uint32(i) {
		return 0, fmt.Errorf("GET_VRING_BASE of ring %d was answered with ring %d, base %#x", i, v.Index, v.Num)
	}
	return v.Num, nil
}

// SetVringAddr sets the ring's three addresses, all of them user addresses.
func (c *Client) SetVringAddr(i int, desc, avail, used uint64) error {
	return c.SetVring(vhostuser.VringAddr{Index: uint32(i), Desc: desc, Avail: avail, Used: used})
}

// SetVring is SetVringAddr with all fields of the message.
func (c *Client) SetVring(a vhostuser.VringAddr) error {
	return c.Set(vhostuser.SetVringAddr, a.Append(nil))
}

// SetVringEnable enables or disables the ring.
func (c *Client) SetVringEnable(i int, on bool) error {
	n := uint32(0)
	if on {
		n = 1
	}
	return c.setState(vhostuser.SetVringEnable, i, n)
}

func (c *Client) setFile(r vhostuser.Request, i, fd int) error {
	v := vhostuser.VringFile{Index: uint8(i), NoFD: fd < 0}
	if v.NoFD {
		return c.Set(r, v.Append(nil))
	}
	return c.Set(r, v.Append(nil), fd)
}

// SetVringKick passes the eventfd that wakes the back-end, and so starts the ring; -1 asks
// it to poll.
func (c *Client) SetVringKick(i, fd int) error { return c.setFile(vhostuser.SetVringKick, i, fd) }

// SetVringCall passes the eventfd with which the back-end wakes the driver; -1: without
// calls.
func (c *Client) SetVringCall(i, fd int) error { return c.setFile(vhostuser.SetVringCall, i, fd) }

// SetVringErr passes the eventfd that the back-end signals if the ring is broken; -1:
// without one.
func (c *Client) SetVringErr(i, fd int) error { return c.setFile(vhostuser.SetVringErr, i, fd) }
