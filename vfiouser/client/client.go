package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vfiouser"
)

// A Client is a connection to a server. Its methods may be called from any goroutine; each
// waits for the reply to the one before. An error reply is returned as an error that wraps a
// unix.Errno and leaves the connection usable; after any other error it must be closed.
type Client struct {
	// Minor is the version's that was negotiated, and Capabilities the server's, as JSON.
	Minor        uint16
	Capabilities string

	mu   sync.Mutex
	conn *vfiouser.Conn
	m    vfiouser.Message
	id   uint16
	buf  []byte
}

// Capabilities are what Dial and New propose, with the protocol's defaults.
const Capabilities = `{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"pgsizes":4096,"max_dma_maps":65535}}`

// Dial connects to the server at a path and negotiates.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return New(c.(*net.UnixConn))
}

// New takes over a connection and negotiates.
func New(uc *net.UnixConn) (*Client, error) {
	conn, err := vfiouser.NewConn(uc)
	if err != nil {
		_ = uc.Close() // the other error says more
		return nil, err
	}
	c := &Client{conn: conn}
	if err := c.negotiate(); err != nil {
		_ = c.Close() // the other error says more
		return nil, err
	}
	return c, nil
}

func (c *Client) negotiate() error {
	reply, err := c.Call(vfiouser.Version, vfiouser.VersionData{Minor: 1, Data: append([]byte(Capabilities), 0)}.Append(nil))
	if err != nil {
		return err
	}
	v, err := vfiouser.ParseVersion(reply)
	switch {
	case err != nil:
		return fmt.Errorf("VERSION: %w", err)
	case v.Major != 0 || v.Minor > 1:
		return fmt.Errorf("VERSION: the server speaks %d.%d", v.Major, v.Minor)
	}
	c.Minor = v.Minor
	if n := len(v.Data); n > 0 {
		c.Capabilities = string(v.Data[:n-1])
	}
	return nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call sends a command and returns the payload of its reply.
func (c *Client) Call(cmd vfiouser.Command, payload []byte, fds ...int) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply, err := c.callLocked(cmd, payload, fds)
	return append([]byte(nil), reply...), err
}

// callLocked is Call; its result is valid until the next call.
func (c *Client) callLocked(cmd vfiouser.Command, payload []byte, fds []int) ([]byte, error) {
	c.id++
	if err := c.conn.Write(vfiouser.Header{ID: c.id, Command: cmd}, payload, fds...); err != nil {
		return nil, err
	}
	if err := c.conn.ReadReply(&c.m); err != nil {
		return nil, err
	}
	c.m.Close() // no reply has a descriptor that is wanted
	switch {
	case c.m.ID != c.id || c.m.Command != cmd:
		return nil, fmt.Errorf("the reply to %v %d is one to %v %d", cmd, c.id, c.m.Command, c.m.ID)
	case c.m.Flags&vfiouser.FlagError != 0 && c.m.Errno != 0:
		return nil, fmt.Errorf("%v: %w", cmd, unix.Errno(c.m.Errno))
	case c.m.Flags&vfiouser.FlagError != 0:
		return nil, fmt.Errorf("%v: %w", cmd, unix.EIO)
	}
	return c.m.Payload, nil
}

// PostCommand sends a command without asking for a reply.
func (c *Client) PostCommand(cmd vfiouser.Command, payload []byte, fds ...int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.postLocked(cmd, payload, fds)
}

func (c *Client) postLocked(cmd vfiouser.Command, payload []byte, fds []int) error {
	c.id++
	return c.conn.Write(vfiouser.Header{ID: c.id, Command: cmd, Flags: vfiouser.FlagNoReply}, payload, fds...)
}

// Info asks what the device has.
func (c *Client) Info() (vfiouser.DeviceInfo, error) {
	reply, err := c.Call(vfiouser.GetInfo, vfiouser.DeviceInfo{Argsz: 16}.Append(nil))
	if err != nil {
		return vfiouser.DeviceInfo{}, err
	}
	return vfiouser.ParseDeviceInfo(reply)
}

// Region asks about a region.
func (c *Client) Region(index uint32) (vfiouser.RegionInfo, error) {
	reply, err := c.Call(vfiouser.GetRegionInfo, vfiouser.RegionInfo{Argsz: 32, Index: index}.Append(nil))
	if err != nil {
		return vfiouser.RegionInfo{}, err
	}
	return vfiouser.ParseRegionInfo(reply)
}

// IRQ asks about an interrupt type.
func (c *Client) IRQ(index uint32) (vfiouser.IRQInfo, error) {
	reply, err := c.Call(vfiouser.GetIRQInfo, vfiouser.IRQInfo{Argsz: 16, Index: index}.Append(nil))
	if err != nil {
		return vfiouser.IRQInfo{}, err
	}
	return vfiouser.ParseIRQInfo(reply)
}

// Map gives the device memory: size bytes of the file behind fd, from offset on, at an
// address. fd is lent; with -1 the device learns of the memory and cannot use it.
func (c *Client) Map(address, size, offset uint64, fd int) error {
	m := vfiouser.Mapping{Argsz: 32, Flags: vfiouser.MapRead | vfiouser.MapWrite, Offset: offset, Address: address, Size: size}
	var fds []int
	if fd >= 0 {
		fds = []int{fd}
	}
	_, err := c.Call(vfiouser.DMAMap, m.Append(nil), fds...)
	return err
}

// Unmap takes memory back.
func (c *Client) Unmap(address, size uint64) error {
	_, err := c.Call(vfiouser.DMAUnmap, vfiouser.Unmapping{Argsz: 24, Address: address, Size: size}.Append(nil))
	return err
}

// UnmapAll takes all memory back.
func (c *Client) UnmapAll() error {
	_, err := c.Call(vfiouser.DMAUnmap, vfiouser.Unmapping{Argsz: 24, Flags: vfiouser.UnmapAll}.Append(nil))
	return err
}

var errShort = errors.New("the server has transferred another number of bytes")

// Read fills dst from a region.
func (c *Client) Read(region uint32, dst []byte, offset uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = vfiouser.Access{Offset: offset, Region: region, Count: uint32(len(dst))}.Append(c.buf[:0])
	reply, err := c.callLocked(vfiouser.RegionRead, c.buf, nil)
	if err != nil {
		return err
	}
	a, err := vfiouser.ParseAccess(reply)
	if err != nil {
		return err
	}
	if len(a.Data) != len(dst) || a.Count != uint32(len(dst)) {
		return errShort
	}
	copy(dst, a.Data)
	return nil
}

// Write writes src to a region.
func (c *Client) Write(region uint32, src []byte, offset uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = vfiouser.Access{Offset: offset, Region: region, Count: uint32(len(src)), Data: src}.Append(c.buf[:0])
	reply, err := c.callLocked(vfiouser.RegionWrite, c.buf, nil)
	if err != nil {
		return err
	}
	if a, err := vfiouser.ParseAccess(reply); err != nil || a.Count != uint32(len(src)) {
		return errShort
	}
	return nil
}

// Post writes src to a region without waiting: a posted write. Later commands are carried out
// after it.
func (c *Client) Post(region uint32, src []byte, offset uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = vfiouser.Access{Offset: offset, Region: region, Count: uint32(len(src)), Data: src}.Append(c.buf[:0])
	return c.postLocked(vfiouser.RegionWrite, c.buf, nil)
}

// SetIRQs carries out an action on vectors of an interrupt type. bools go with
// vfiouser.IRQDataBool, fds, which are lent, with vfiouser.IRQDataEventfd.
func (c *Client) SetIRQs(index, flags, start, count uint32, bools []byte, fds ...int) error {
	q := vfiouser.IRQSet{Argsz: uint32(20 + len(bools)), Flags: flags, Index: index, Start: start, Count: count, Data: bools}
	_, err := c.Call(vfiouser.SetIRQs, q.Append(nil), fds...)
	return err
}

// SetEventfds has the server write to these eventfds for the vectors from start on.
func (c *Client) SetEventfds(index, start uint32, fds ...int) error {
	for len(fds) > 0 {
		n := min(len(fds), vfiouser.MaxFDs)
		if err := c.SetIRQs(index, vfiouser.IRQDataEventfd|vfiouser.IRQTrigger, start, uint32(n), nil, fds[:n]...); err != nil {
			return err
		}
		start, fds = start+uint32(n), fds[n:]
	}
	return nil
}

// DisableIRQs removes all eventfds of an interrupt type.
func (c *Client) DisableIRQs(index uint32) error {
	return c.SetIRQs(index, vfiouser.IRQDataNone|vfiouser.IRQTrigger, 0, 0, nil)
}

// Reset resets the device.
func (c *Client) Reset() error {
	_, err := c.Call(vfiouser.Reset, nil)
	return err
}
