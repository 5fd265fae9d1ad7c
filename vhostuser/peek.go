package vhostuser

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// peekRequest reads the next message of a front-end into m as ReadRequest does,
// and leaves it in the socket, with its descriptors: those in m are duplicates.
// pieces are the parts it came in. The socket remembers how far we have looked
// (SO_PEEK_OFF, socket(7)), so that a message that comes bit by bit can be waited
// for.
func (c *Conn) peekRequest(m *Message) (pieces []uint32, err error) {
	m.Close()
	m.Header, m.Payload, m.Surplus = Header{}, nil, 0
	if pieces, err = c.peekInto(m); err != nil {
		m.Close()
	}
	return pieces, err
}

func (c *Conn) peekInto(m *Message) (pieces []uint32, err error) {
	err = c.control(func(fd uintptr) error { return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0) })
	if err != nil {
		return nil, fmt.Errorf("SO_PEEK_OFF: %w", err)
	}
	joined := false // what was looked at last goes on
	for have, want := 0, HeaderSize; have < want; {
		var part Message // of its descriptors
		n, err := c.peek(&part, m.buf[have:])
		switch {
		case err != nil:
			part.Close()
			return nil, fmt.Errorf("reading a message: %w", err)
		case n == 0 && have == 0:
			return nil, io.EOF
		case n == 0:
			return nil, fmt.Errorf("reading a message: %w", io.ErrUnexpectedEOF)
		}
		if have += n; want == HeaderSize && have >= HeaderSize {
			if m.Header, err = ParseHeader(m.buf[:HeaderSize]); err == nil {
				err = m.Header.check(false)
			}
			if err != nil {
				part.Close()
				return nil, err
			}
			want += int(m.Header.Size)
		}
		fds := len(part.Files) + part.Surplus
		if have > want {
			// A look goes on until it has come to descriptors, or to the end. These are
			// of a message behind this one: each is sent by itself.
			n -= have - want
			part.Close()
			part.Surplus, fds = 0, 0
		}
		m.takeOver(&part)
		// A part without descriptors and what follows it are taken in one go.
		if joined {
			pieces[len(pieces)-1] += uint32(n)
		} else {
			pieces = append(pieces, uint32(n))
		}
		joined = fds == 0
		if len(pieces) > maxPieces {
			return nil, fmt.Errorf("reading a message: it came with descriptors in more than %d places: send all of them with its first byte", maxPieces)
		}
	}
	m.Payload = m.buf[HeaderSize:][:m.Header.Size]
	return pieces, nil
}

// takeOver adds the descriptors of a part of m to those of m, as far as there is room.
func (m *Message) takeOver(part *Message) {
	n := min(len(part.Files), MaxTableRegions-len(m.Files))
	m.Files = append(m.Files, part.Files[:n]...)
	m.Surplus += len(part.Files) - n + part.Surplus
	part.Files = part.Files[n:]
	part.Close()
}

// peek looks at what is in the socket behind what was looked at already, and waits
// for it. The descriptors that it comes across are of the last byte, or of what
// stands behind it where b is full: the kernel goes on looking then
// (net/unix/af_unix.c, unix_stream_read_generic).
func (c *Conn) peek(m *Message, b []byte) (n int, err error) {
	raw, err := c.uc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var oobn, flags int
	rerr := raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), b, c.oob, unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
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

// gone says whether the other end has hung up.
func (c *Conn) gone() bool {
	p := [1]unix.PollFd{{Events: unix.POLLRDHUP}}
	err := c.control(func(fd uintptr) error {
		p[0].Fd = int32(fd)
		_, err := unix.Poll(p[:], 0)
		return err
	})
	return err == nil && p[0].Revents != 0
}

// control runs f on the connection's descriptor, unless it is closed.
func (c *Conn) control(f func(fd uintptr) error) error {
	raw, err := c.uc.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = f(fd) })
	if cerr != nil {
		return cerr
	}
	return err
}

// waitWritable waits until the socket takes an answer.
func (c *Conn) waitWritable() error {
	raw, err := c.uc.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Write(func(fd uintptr) bool {
		// The runtime wakes up for what changes from here on, and the socket may have
		// become writable before: nothing would change any more.
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p[:], 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}
