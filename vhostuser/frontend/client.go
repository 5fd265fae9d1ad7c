package frontend

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A Client speaks the protocol over one connection, message by message. It checks the
// back-end's answers, but not its own messages: it can send invalid ones, and [Client.Send]
// sends any.
type Client struct {
	conn *vhostuser.Conn
	uc   *net.UnixConn // of conn, for its deadlines
	sock *foreign.FD   // the connection once more, to check whether it is still open
	m    vhostuser.Message

	// Timeout is how long each message may take to be sent, and to be answered; 0: for
	// ever.
	Timeout time.Duration

	interrupted atomic.Bool
	wake        *foreign.FD // an eventfd that is readable once it is interrupted
	closing     sync.Mutex  // so that Interrupt does not use a closed descriptor
	closed      bool

	// Protocol are the negotiated protocol features. With REPLY_ACK each message is
	// acknowledged before its method returns.
	Protocol uint64
}

// Dial connects to a back-end that listens on the Unix socket path.
func Dial(path string) (*Client, error) {
	uc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return New(uc)
}

// New makes a client of uc, whose other end a back-end has, and owns it. It is closed on an
// error too.
func New(uc *net.UnixConn) (*Client, error) {
	c := &Client{conn: vhostuser.NewConn(uc), uc: uc}
	raw, err := uc.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			var n int
			if n, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
				c.sock = foreign.NewFD(n)
			}
		})
		err = errors.Join(err, cerr)
	}
	if err == nil {
		var n int
		if n, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
			c.wake = foreign.NewFD(n)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connection to the back-end: %w", err), c.Close())
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	c.closing.Lock()
	defer c.closing.Unlock()
	c.closed = true
	c.m.Close()
	return errors.Join(c.conn.Close(), c.sock.Close(), c.wake.Close())
}

// PeerPID is the process at the other end, as it was when it began to listen (SO_PEERCRED,
// unix(7)); 0 if it is in a PID namespace that is not visible here.
func (c *Client) PeerPID() (int, error) {
	cred, err := unix.GetsockoptUcred(c.sock.Int(), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("who is at the other end of the socket: %w", err)
	}
	return int(cred.Pid), nil
}

// RefusedError is a message that the back-end understood and refused. The back-end has
// logged the reason.
type RefusedError struct{ Request vhostuser.Request }

func (e RefusedError) Error() string {
	return fmt.Sprintf("the back-end refused %v (its log says why)", e.Request)
}

// The ends of a wait, see package blkclient. ErrInterrupted is a wait that Interrupt has ended.
var (
	ErrGone        = blkclient.ErrGone
	ErrTimeout     = blkclient.ErrTimeout
	ErrInterrupted = blkclient.ErrInterrupted
)

// Interrupt ends every wait for a message and, in the queues of the disk, for a request,
// now and from now on: they fail with ErrInterrupted. The back-end does not notice it
// before Close. Any goroutine may call it, also after Close.
func (c *Client) Interrupt() {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.closed {
		return
	}
	c.interrupted.Store(true)
	_ = c.uc.SetDeadline(time.Unix(1, 0)) // an ended connection has no waiting calls
	_, _ = unix.Write(c.wake.Int(), []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// limit starts the time limit of a message.
func (c *Client) limit() error {
	if c.Timeout > 0 {
		if err := c.uc.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
			return err
		}
	}
	if c.interrupted.Load() { // whose deadline it may have been
		return ErrInterrupted
	}
	return nil
}

// Send sends a message with any flags, payload and descriptors, and does not wait for an
// answer.
func (c *Client) Send(r vhostuser.Request, flags uint32, payload []byte, fds ...int) error {
	if err := c.limit(); err != nil {
		return fmt.Errorf("sending %v: %w", r, err)
	}
	if err := c.conn.Write(r, flags, payload, fds...); err != nil {
		return fmt.Errorf("sending %v: %w", r, c.gone(err))
	}
	return nil
}

// SendRaw sends bytes unchanged, with the descriptors at the first byte.
func (c *Client) SendRaw(b []byte, fds ...int) error { return c.gone(c.conn.WriteRaw(b, fds...)) }

// Receive reads the next answer. It is valid until the next call of any method.
func (c *Client) Receive() (*vhostuser.Message, error) {
	if err := c.conn.ReadReply(&c.m); err != nil {
		return nil, c.gone(err)
	}
	return &c.m, nil
}

// gone translates the different errors of a closed connection, and of a silent one.
func (c *Client) gone(err error) error {
	switch {
	case err == nil:
		return nil
	case c.interrupted.Load():
		return ErrInterrupted
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w within %v", ErrTimeout, c.Timeout)
	}
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, end) {
			return fmt.Errorf("%w (%w)", ErrGone, err)
		}
	}
	return err
}

// Get sends a message that has an answer, and returns the answer's payload. It is valid
// until the next call of any method.
func (c *Client) Get(r vhostuser.Request, payload []byte, fds ...int) ([]byte, error) {
	if err := c.Send(r, vhostuser.Version, payload, fds...); err != nil {
		return nil, err
	}
	return c.answer(r)
}

// Set sends a message that has no answer, and waits for an acknowledgement if REPLY_ACK was
// negotiated.
func (c *Client) Set(r vhostuser.Request, payload []byte, fds ...int) error {
	if c.Protocol&vhostuser.ProtocolReplyAck == 0 {
		return c.Send(r, vhostuser.Version, payload, fds...)
	}
	if err := c.Send(r, vhostuser.Version|vhostuser.FlagNeedReply, payload, fds...); err != nil {
		return err
	}
	p, err := c.answer(r)
	if err != nil {
		return err
	}
	v, err := vhostuser.ParseU64(p)
	if err != nil {
		return fmt.Errorf("acknowledgement of %v: %w", r, err)
	}
	if v != 0 {
		return RefusedError{r}
	}
	return nil
}

func (c *Client) answer(r vhostuser.Request) ([]byte, error) {
	var m *vhostuser.Message
	err := c.limit()
	if err == nil {
		m, err = c.Receive()
	}
	if err != nil {
		return nil, fmt.Errorf("waiting for the answer to %v: %w", r, err)
	}
	if m.Request != r {
		return nil, fmt.Errorf("%v was answered with %v", r, m)
	}
	return m.Payload, nil
}

func (c *Client) getU64(r vhostuser.Request) (uint64, error) {
	p, err := c.Get(r, nil)
	if err != nil {
		return 0, err
	}
	v, err := vhostuser.ParseU64(p)
	if err != nil {
		return 0, fmt.Errorf("answer to %v: %w", r, err)
	}
	return v, nil
}

// Features asks which features the back-end offers, FeatureProtocol included.
func (c *Client) Features() (uint64, error) { return c.getU64(vhostuser.GetFeatures) }

// SetFeatures accepts features. A session ends if the device refuses them without
// REPLY_ACK.
func (c *Client) SetFeatures(f uint64) error {
	return c.Set(vhostuser.SetFeatures, vhostuser.AppendU64(nil, f))
}

// ProtocolFeatures asks which protocol features the back-end offers.
func (c *Client) ProtocolFeatures() (uint64, error) { return c.getU64(vhostuser.GetProtocolFeatures) }

// SetProtocolFeatures accepts protocol features, and sets c.Protocol.
func (c *Client) SetProtocolFeatures(f uint64) error {
	// The protocol does not define whether this message is acknowledged, so no
	// acknowledgement is requested.
	if err := c.Send(vhostuser.SetProtocolFeatures, vhostuser.Version, vhostuser.AppendU64(nil, f)); err != nil {
		return err
	}
	c.Protocol = f
	return nil
}

// SetOwner begins the session.
func (c *Client) SetOwner() error { return c.Set(vhostuser.SetOwner, nil) }

// QueueNum asks how many queues there are.
func (c *Client) QueueNum() (int, error) {
	n, err := c.getU64(vhostuser.GetQueueNum)
	if err == nil && n > transport.MaxQueues {
		err = fmt.Errorf("the back-end claims %d queues, more than the protocol can name", n)
	}
	return int(n), err
}

// MaxMemSlots asks how many memory regions AddRegion may add.
func (c *Client) MaxMemSlots() (uint64, error) { return c.getU64(vhostuser.GetMaxMemSlots) }

// Status reads the virtio device status; needs STATUS.
func (c *Client) Status() (uint8, error) {
	v, err := c.getU64(vhostuser.GetStatus)
	return uint8(v), err
}

// SetStatus writes the virtio device status; 0 resets the device. Needs STATUS.
func (c *Client) SetStatus(v uint8) error {
	return c.Set(vhostuser.SetStatus, vhostuser.AppendU64(nil, uint64(v)))
}

// ResetDevice resets the device; needs RESET_DEVICE.
func (c *Client) ResetDevice() error { return c.Set(vhostuser.ResetDevice, nil) }

// Config reads n bytes of the configuration space at byte off; needs CONFIG.
func (c *Client) Config(off, n uint32) ([]byte, error) {
	p, err := c.Get(vhostuser.GetConfig, vhostuser.ConfigAccess{Offset: off, Data: make([]byte, n)}.Append(nil))
	if err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, RefusedError{vhostuser.GetConfig}
	}
	a, err := vhostuser.ParseConfigAccess(p)
	if err != nil {
		return nil, fmt.Errorf("answer to GET_CONFIG: %w", err)
	}
	if len(a.Data) != int(n) {
		return nil, fmt.Errorf("GET_CONFIG of %d bytes was answered with %d", n, len(a.Data))
	}
	return append([]byte(nil), a.Data...), nil
}

// SetConfig writes to the configuration space at byte off; needs CONFIG.
func (c *Client) SetConfig(off uint32, data []byte) error {
	return c.Set(vhostuser.SetConfig, vhostuser.ConfigAccess{Offset: off, Data: data}.Append(nil))
}

// SetBackendReqFD gives the back-end a socket for messages of its own; needs
// BACKEND_REQ.
func (c *Client) SetBackendReqFD(fd int) error { return c.Set(vhostuser.SetBackendReqFD, nil, fd) }

// SetMemTable makes regions, up to 8, the whole of the guest's memory.
func (c *Client) SetMemTable(regions ...*Region) error {
	descs, fds := make([]guestmem.RegionDesc, len(regions)), make([]int, len(regions))
	for i, r := range regions {
		descs[i], fds[i] = r.Desc(), r.FD()
	}
	return c.Set(vhostuser.SetMemTable, vhostuser.AppendMemTable(nil, descs), fds...)
}

// AddRegion adds a region to the guest's memory; needs CONFIGURE_MEM_SLOTS.
func (c *Client) AddRegion(r *Region) error {
	return c.Set(vhostuser.AddMemReg, vhostuser.AppendMemReg(nil, r.Desc()), r.FD())
}

// RemoveRegion removes a region; needs CONFIGURE_MEM_SLOTS.
func (c *Client) RemoveRegion(r *Region) error {
	return c.Set(vhostuser.RemMemReg, vhostuser.AppendMemReg(nil, r.Desc()))
}
