package frontend

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vfiouser/client"
	"github.com/zvhost/zvhost/virtio/blkclient"
)

// A Client is a connection to a server.
type Client struct {
	// Timeout is how long each message of the set-up may take to be answered; 0: for ever.
	Timeout time.Duration

	uc   *net.UnixConn
	vfio *client.Client // nil before the versions are negotiated
	sock *foreign.FD    // the connection once more, to check whether it is still open
	wake *foreign.FD    // an eventfd that is readable once it is interrupted

	interrupted, late atomic.Bool
	closing           sync.Mutex // so that Interrupt does not use a closed descriptor
	closed            bool
}

// Dial connects to a server that listens on the Unix socket path. Nothing is sent yet.
func Dial(path string) (*Client, error) {
	uc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return New(uc)
}

// New makes a client of uc, whose other end a server has, and owns it. It is closed on an error
// too.
func New(uc *net.UnixConn) (*Client, error) {
	c := &Client{uc: uc}
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
		return nil, errors.Join(fmt.Errorf("connection to the server: %w", err), c.Close())
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	err := c.hangUp()
	return errors.Join(err, c.sock.Close(), c.wake.Close())
}

// hangUp ends the connection: what waits for it returns.
func (c *Client) hangUp() error {
	// client.Client's Close would wait for a call that waits for the server.
	if err := c.uc.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Interrupt ends every wait for a message and, in the queues of the disk, for a request, now and
// from now on: they fail with blkclient.ErrInterrupted. It ends the connection. Any goroutine may
// call it, also after Close.
func (c *Client) Interrupt() {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.closed {
		return
	}
	c.interrupted.Store(true)
	_, _ = unix.Write(c.wake.Int(), []byte{1, 0, 0, 0, 0, 0, 0, 0})
	_ = c.hangUp()
}

// limited runs f, which waits for the server, for at most Timeout.
func (c *Client) limited(f func() error) error {
	if c.interrupted.Load() {
		return blkclient.ErrInterrupted
	}
	if c.Timeout <= 0 {
		return c.reason(f())
	}
	t := time.AfterFunc(c.Timeout, func() {
		c.late.Store(true)
		_ = c.hangUp()
	})
	err := f()
	t.Stop()
	return c.reason(err)
}

// reason translates the errors of a connection that has ended.
func (c *Client) reason(err error) error {
	switch {
	case err == nil:
		return nil
	case c.interrupted.Load():
		return blkclient.ErrInterrupted
	case c.late.Load():
		return fmt.Errorf("%w within %v", blkclient.ErrTimeout, c.Timeout)
	}
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, end) {
			return fmt.Errorf("%w (%w)", blkclient.ErrGone, err)
		}
	}
	return err
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
