package vhostuser

import (
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// Message is one message as it came over the wire. Payload is good until the
// next Read into the same Message.
type Message struct {
	Header
	Payload []byte
	// Files are the descriptors that came along, at most MaxTableRegions. They
	// are the Message's until Take, and Close closes the others.
	Files []*foreign.FD
	// Surplus counts descriptors that came along beyond those.
	Surplus int
	// sender is the process that has sent the last of it, 0 where that is not known
	// (SCM_CREDENTIALS, unix(7)).
	sender  int32
	surplus []*foreign.FD // they are closed with the others: see readAhead

	// A message with its header, and one byte more: see readAhead.
	buf [HeaderSize + MaxPayload + 1]byte
}

// Take hands descriptor i over to the caller; the Message forgets it.
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
	for _, f := range m.surplus {
		_ = f.Close()
	}
	m.surplus = nil
}

// Conn carries messages and their descriptors over a Unix stream socket. One
// goroutine may read and one write at a time; Close interrupts both from any
// other.
type Conn struct {
	uc  *net.UnixConn
	oob []byte
	out []byte

	limit     time.Duration // of a message that has begun, and of an answer; 0: none
	idle      atomic.Bool   // it waits for a message of which nothing has been read
	deadlines deadlines
	rescind   func() // takes back the deadline of the message that has begun; nil: there is none
}

// scmMaxFD is the most descriptors that one sendmsg can carry (SCM_MAX_FD of the
// kernel, include/net/scm.h).
const scmMaxFD = 253

// NewConn takes over uc, which must be a stream socket.
func NewConn(uc *net.UnixConn) *Conn {
	_ = foreign.InlineOutOfBand(uc) // a connection that is closed passes on nothing
	// Room for as many descriptors as the kernel can deliver at once: no sender can
	// overflow it, so a truncated delivery means that this process may open no
	// more.
	return &Conn{uc: uc, oob: make([]byte, unix.CmsgSpace(scmMaxFD*4)+unix.CmsgSpace(unix.SizeofUcred))}
}

// Close ends this process's use of the connection; a blocked Read or Write returns
// net.ErrClosed. It does not wait for what is in it unread.
func (c *Conn) Close() error { return foreign.HangUp(c.uc, false) }

// hangUp is Close, for everybody who has this end open.
func (c *Conn) hangUp() error { return foreign.HangUp(c.uc, true) }

// ReadRequest reads the next message of a front-end into m, closing what m
// still held. io.EOF means that the front-end left between two messages. After
// any error m holds no descriptors and the connection is of no more use.
func (c *Conn) ReadRequest(m *Message) error { return c.read(m, false) }

// ReadReply reads the next answer of a back-end into m; see ReadRequest.
func (c *Conn) ReadReply(m *Message) error { return c.read(m, true) }

func (c *Conn) read(m *Message, reply bool) error {
	m.Close()
	m.Header, m.Payload, m.Surplus, m.sender = Header{}, nil, 0, 0
	err := c.readInto(m, reply)
	c.whole()
	if err != nil {
		m.Close()
	}
	return err
}

func (c *Conn) readInto(m *Message, reply bool) error {
	head := m.buf[:HeaderSize]
	if err := c.fill(m, head, false); err != nil {
		if err == io.EOF {
			return err
		}
		return fmt.Errorf("reading a message header: %w", err)
	}
	h, err := ParseHeader(head)
	if err != nil {
		return err
	}
	m.Header = h
	if err := h.check(reply); err != nil {
		return err
	}
	m.Payload = m.buf[:h.Size]
	if err := c.fill(m, m.Payload, true); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading the %d bytes of %v: %w", h.Size, h.Request, err)
	}
	return nil
}

// fill reads exactly b from the stream, and takes in every descriptor on the
// way; begun says that the message has begun. Exact lengths keep descriptors with their message: one recvmsg never
// returns those of bytes that it did not read (net/unix/af_unix.c,
// unix_stream_read_generic). io.EOF means that not one byte came.
func (c *Conn) fill(m *Message, b []byte, begun bool) error {
	for done := 0; done < len(b); {
		n, err := c.recv(m, b[done:], 0, begun || done > 0)
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

// receive takes over the descriptors in a control message. A front-end can put
// nothing else there.
func (m *Message) receive(oob []byte) error {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("control message: %w", err)
	}
	for i := range cmsgs {
		if cred, err := unix.ParseUnixCredentials(&cmsgs[i]); err == nil {
			m.sender = cred.Pid
			continue
		}
		if cmsgs[i].Header.Level != unix.SOL_SOCKET || cmsgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			return fmt.Errorf("control message: %w", err)
		}
		for _, fd := range fds {
			f := foreign.SentFD(fd)
			if len(m.Files) < MaxTableRegions {
				m.Files = append(m.Files, f)
				continue
			}
			m.surplus = append(m.surplus, f)
			m.Surplus++
		}
	}
	return nil
}

// Write sends one message; the descriptors are only lent. The caller is
// responsible for what the header's flags say.
func (c *Conn) Write(r Request, flags uint32, payload []byte, fds ...int) error {
	c.out = Header{r, flags, uint32(len(payload))}.Append(c.out[:0])
	c.out = append(c.out, payload...)
	if err := c.WriteRaw(c.out, fds...); err != nil {
		return fmt.Errorf("sending %v: %w", r, err)
	}
	return nil
}

// WriteRaw sends bytes as they are, the descriptors with the first of them. It
// is for tests that play a broken front-end.
func (c *Conn) WriteRaw(b []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if c.limit > 0 {
		defer c.expire(c.uc.SetWriteDeadline, c.limit)()
	}
	for len(b) > 0 {
		n, _, err := c.uc.WriteMsgUnix(b, oob, nil)
		if err != nil {
			return c.notTaken(err, func() bool { return false })
		}
		b, oob = b[n:], nil
	}
	return nil
}
