package frontend

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser"
)

// SaveState reads the state of the back-end's device, for another back-end to continue
// from; needs DEVICE_STATE. All queues must be stopped.
func (c *Client) SaveState() ([]byte, error) {
	ours, err := c.transfer(vhostuser.StateSave)
	if err != nil {
		return nil, err
	}
	state, err := io.ReadAll(ours)
	return state, errors.Join(err, ours.Close(), c.checkState())
}

// LoadState passes a state that another back-end has saved; needs DEVICE_STATE.
func (c *Client) LoadState(state []byte) error {
	ours, err := c.transfer(vhostuser.StateLoad)
	if err != nil {
		return err
	}
	_, err = ours.Write(state)
	return errors.Join(err, ours.Close(), c.checkState())
}

// transfer passes one end of a pipe to the back-end, and returns the other.
func (c *Client) transfer(direction uint32) (ours *os.File, err error) {
	var ends [2]int // to read from, to write to
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe for a device's state: %w", err)
	}
	mine, theirs := ends[0], foreign.NewFD(ends[1])
	if direction == vhostuser.StateLoad {
		mine, theirs = ends[1], foreign.NewFD(ends[0])
	}
	ours = os.NewFile(uintptr(mine), "device state")
	p, err := c.Get(vhostuser.SetDeviceStateFD, vhostuser.StateTransfer{Direction: direction}.Append(nil), theirs.Int())
	err = errors.Join(err, theirs.Close())
	if err == nil {
		var v uint64
		if v, err = vhostuser.ParseU64(p); err == nil && v != 1<<8 { // done, with our descriptor
			err = RefusedError{vhostuser.SetDeviceStateFD}
		}
	}
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}

func (c *Client) checkState() error {
	v, err := c.getU64(vhostuser.CheckDeviceState)
	if err == nil && v != 0 {
		err = RefusedError{vhostuser.CheckDeviceState}
	}
	return err
}
