package vfiouser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// MessageLimit is how long a client may take for a message from its first byte or descriptor
// on, and for accepting a reply. Between two messages there is no limit. What is in a
// socket's queue may contain the client's own end of the connection, so that it must be read
// or dropped in the end.
const MessageLimit = 2 * time.Second

var (
	errHalfMessage = fmt.Errorf("only a part of a message came within %v", MessageLimit)
	errNotTaken    = fmt.Errorf("the other end has not accepted a message within %v", MessageLimit)
)

// Message is one message as it came over the wire. Payload is valid until the next read into
// the same Message.
type Message struct {
	Header
	Payload []byte
	// Files are the descriptors that came along, at most MaxFDs. Close closes those that were
	// not taken.
	Files []*foreign.FD
	// Surplus counts descriptors that came along beyond those. They are closed.
	Surplus int

	buf []byte // as long as the longest message so far
}

// Take hands descriptor i over to the caller.
func (m *Message) Take(i int) *foreign.FD {
	f := m.Files[i]
	m.Files[i] = nil
	return f
}

// Close closes every descriptor that was not taken.
func (m *Message) Close() {
	for _, f := range m.Files {
		_ = f.Close() // a failed close leaves nothing to do
	}
	m.Files = m.Files[:0]
}

// Conn carries messages and their descriptors over a UNIX stream socket. One goroutine may
// read and one may write at a time; Close interrupts both from any other.
type Conn struct {
	uc    *net.UnixConn
	raw   syscall.RawConn
	oob   []byte
	out   []byte
	head  [HeaderSize]byte
	rx    receiving
	tx    sending
	limit time.Duration // MessageLimit, but for tests
	idle  atomic.Bool   // it waits for a message of which nothing has been read
	timed bool          // a read deadline is set
}

// receiving and sending are one recv, and one WriteRaw. Their functions are made once, since each
// notification of a driver is a message, and a function that is made anew allocates what it uses.
type receiving struct {
	b              []byte
	begun          bool
	n, oobn, flags int
	err            error

	ready func(fd uintptr) (done bool)
	last  func(fd uintptr)
}

type sending struct {
	b, oob []byte
	timed  bool
	err    error

	ready func(fd uintptr) (done bool)
	last  func(fd uintptr)
}

// scmMaxFD is the most descriptors that one sendmsg carries (SCM_MAX_FD of the kernel).
const scmMaxFD = 253

// NewConn takes over uc, which must be a stream socket.
func NewConn(uc *net.UnixConn) (*Conn, error) {
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	// The protocol has no out-of-band data.
	if err := foreign.InlineOutOfBand(uc); err != nil {
		return nil, fmt.Errorf("SO_OOBINLINE: %w", err)
	}
	// There is room for all descriptors that the kernel delivers at once, so that a truncated
	// delivery means that this process may open no more.
	c := &Conn{uc: uc, raw: raw, limit: MessageLimit, oob: make([]byte, unix.CmsgSpace(scmMaxFD*4))}
	c.rx.ready, c.rx.last = c.receiveReady, c.receiveLast
	c.tx.ready, c.tx.last = c.sendReady, c.sendLast
	return c, nil
}

// Close ends the connection for both ends; a blocked read or write returns net.ErrClosed. It
// does not wait for what is unread in it.
func (c *Conn) Close() error { return foreign.HangUp(c.uc, true) }

// ReadCommand reads the next command of a client into m. io.EOF means that the client left
// between two messages. After any error m has no descriptors, and the connection cannot be
// used any more.
func (c *Conn) ReadCommand(m *Message) error { return c.read(m, false) }

// ReadReply reads the next reply of a server into m; see ReadCommand.
func (c *Conn) ReadReply(m *Message) error { return c.read(m, true) }

func (c *Conn) read(m *Message, reply bool) error {
	m.Close()
	m.Header, m.Payload, m.Surplus = Header{}, nil, 0
	err := c.readInto(m, reply)
	if c.timed {
		c.timed = false
		_ = c.uc.SetReadDeadline(time.Time{})
	}
	if err != nil {
		m.Close()
	}
	return err
}

func (c *Conn) readInto(m *Message, reply bool) error {
	if err := c.fill(m, c.head[:], false); err != nil {
		if err == io.EOF {
			return err
		}
		return fmt.Errorf("reading a message header: %w", err)
	}
	h, err := ParseHeader(c.head[:])
	if err != nil {
		return err
	}
	m.Header = h
	if err := h.check(reply); err != nil {
		return err
	}
	n := int(h.Size) - HeaderSize
	if n > cap(m.buf) {
		m.buf = make([]byte, n)
	}
	m.Payload = m.buf[:n]
	if err := c.fill(m, m.Payload, true); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading the %d bytes of %v: %w", n, h.Command, err)
	}
	return nil
}

// fill reads exactly b, and every descriptor that comes with it; begun says that the message
// has begun. Exact lengths attribute descriptors to the right message: one recvmsg never
// returns those of bytes that it did not read (net/unix/af_unix.c,
// unix_stream_read_generic). io.EOF means that nothing came.
func (c *Conn) fill(m *Message, b []byte, begun bool) error {
	for done := 0; done < len(b); {
		n, err := c.recv(m, b[done:], begun || done > 0)
		switch {
		case err != nil:
			return err
		case n == 0 && done == 0 && len(m.Files)+m.Surplus == 0:
			return io.EOF
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		done += n
	}
	return nil
}

// recv reads what is there into b, at most, and waits for it. n is 0 where the other end has
// hung up.
func (c *Conn) recv(m *Message, b []byte, begun bool) (n int, err error) {
	r := &c.rx
	r.b, r.begun, r.err = b, begun, nil
	rerr := c.raw.Read(r.ready)
	if errors.Is(rerr, os.ErrDeadlineExceeded) {
		// This process may have been late, and not the other end.
		rerr = c.raw.Control(r.last)
	}
	n, oobn, flags, err := r.n, r.oobn, r.flags, r.err
	r.b = nil
	if rerr != nil {
		return 0, rerr
	} else if err != nil {
		return 0, err
	}
	if oobn > 0 {
		if err := m.receive(c.oob[:oobn]); err != nil {
			return 0, err
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return 0, errors.New("descriptors were lost: this process may have no more open (raise its limit of open files)")
	}
	return n, nil
}

// look reads without waiting, and says whether there is a result.
func (c *Conn) look(fd uintptr) (done bool) {
	r := &c.rx
	c.idle.Store(false) // before the read, so that busy sees no gap
	for {
		r.n, r.oobn, r.flags, _, r.err = unix.Recvmsg(int(fd), r.b, c.oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if r.err != unix.EINTR {
			return r.err != unix.EAGAIN
		}
	}
}

func (c *Conn) receiveReady(fd uintptr) (done bool) {
	switch done := c.look(fd); {
	case done:
		return true
	case !c.rx.begun:
		c.idle.Store(true)
	case !c.timed:
		c.timed = true
		_ = c.uc.SetReadDeadline(time.Now().Add(c.limit))
	}
	return false
}

func (c *Conn) receiveLast(fd uintptr) {
	if !c.look(fd) {
		c.rx.err = errHalfMessage
	}
}

// receive takes over the descriptors in a control message.
func (m *Message) receive(oob []byte) error {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("control message: %w", err)
	}
	for i := range cmsgs {
		if cmsgs[i].Header.Level != unix.SOL_SOCKET || cmsgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			return fmt.Errorf("control message: %w", err)
		}
		for _, fd := range fds {
			f := foreign.SentFD(fd)
			if len(m.Files) == MaxFDs {
				_ = f.Close()
				m.Surplus++
				continue
			}
			m.Files = append(m.Files, f)
		}
	}
	return nil
}

// Write sends one message. The header's size is set here; the descriptors are lent.
func (c *Conn) Write(h Header, payload []byte, fds ...int) error {
	h.Size = uint32(HeaderSize + len(payload))
	c.out = append(h.Append(c.out[:0]), payload...)
	if err := c.WriteRaw(c.out, fds...); err != nil {
		return fmt.Errorf("sending %v: %w", h.Command, err)
	}
	return nil
}

// WriteRaw sends bytes as they are, the descriptors with the first of them. It is for tests
// that play a broken client.
func (c *Conn) WriteRaw(b []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	t := &c.tx
	t.b, t.oob, t.timed, t.err = b, oob, false, nil
	werr := c.raw.Write(t.ready)
	if errors.Is(werr, os.ErrDeadlineExceeded) {
		werr = c.raw.Control(t.last)
	}
	if t.timed {
		_ = c.uc.SetWriteDeadline(time.Time{})
	}
	t.b, t.oob = nil, nil
	if werr != nil {
		return werr
	}
	return t.err
}

// send sends without waiting, and says whether there is a result.
func (c *Conn) send(fd uintptr) (done bool) {
	t := &c.tx
	for len(t.b) > 0 {
		var n int
		n, t.err = unix.SendmsgN(int(fd), t.b, t.oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case t.err == unix.EINTR:
			continue
		case t.err != nil:
			return t.err != unix.EAGAIN
		}
		t.b, t.oob = t.b[n:], nil
	}
	return true
}

func (c *Conn) sendReady(fd uintptr) (done bool) {
	done = c.send(fd)
	if !done && !c.tx.timed {
		c.tx.timed = true
		_ = c.uc.SetWriteDeadline(time.Now().Add(c.limit))
	}
	return done
}

func (c *Conn) sendLast(fd uintptr) {
	if !c.send(fd) {
		c.tx.err = errNotTaken
	}
}

// gone says whether the other end has hung up.
func (c *Conn) gone() bool { return c.shows(unix.POLLRDHUP) }

// busy says whether a message has begun, is acted on or answered. Any goroutine may call it.
func (c *Conn) busy() bool {
	// In this order: once something has been read the connection is not idle.
	return c.shows(unix.POLLIN) || !c.idle.Load()
}

// shows says whether the socket has any of these events, or an error, now.
func (c *Conn) shows(events int16) bool {
	p := [1]unix.PollFd{{Events: events}}
	var perr error
	err := c.raw.Control(func(fd uintptr) {
		p[0].Fd = int32(fd)
		_, perr = unix.Poll(p[:], 0)
	})
	return err == nil && perr == nil && p[0].Revents != 0
}
