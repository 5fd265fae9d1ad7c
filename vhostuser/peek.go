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

func (c *Conn) peekInto(m *Message) ([]uint32, error) {
	head := m.buf[:HeaderSize]
	if _, err := c.peek(m, head); err != nil {
		if err == io.EOF {
			return nil, err
		}
		return nil, fmt.Errorf("reading a message header: %w", err)
	}
	h, err := ParseHeader(head)
	if err != nil {
		return nil, err
	}
	m.Header = h
	if err := h.check(false); err != nil {
		return nil, err
	}
	// Once more and whole: descriptors come with each look at the part that
	// brought them.
	m.Close()
	m.Surplus = 0
	pieces, err := c.peek(m, m.buf[:HeaderSize+h.Size])
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading the %d bytes of %v: %w", h.Size, h.Request, err)
	}
	m.Payload = m.buf[HeaderSize:][:h.Size]
	if len(pieces) > maxPieces {
		return nil, fmt.Errorf("%v came in %d parts, more than %d", h.Request, len(pieces), maxPieces)
	}
	return pieces, nil
}

// peek fills b from the beginning of what is in the socket. io.EOF means that not
// one byte came.
func (c *Conn) peek(m *Message, b []byte) (pieces []uint32, err error) {
	raw, err := c.uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	done := 0
	err = errors.Join(raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0)
	}), err)
	if err != nil {
		return nil, fmt.Errorf("SO_PEEK_OFF: %w", err)
	}
	joined := false // what was looked at last goes on
	for done < len(b) {
		var n, oobn, flags int
		rerr := raw.Read(func(fd uintptr) bool {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), b[done:], c.oob, unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			return err != unix.EAGAIN
		})
		if rerr != nil {
			return nil, rerr
		}
		if oobn > 0 {
			if err := m.receive(c.oob[:oobn]); err != nil {
				return nil, err
			}
		}
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case flags&unix.MSG_CTRUNC != 0:
			return nil, errors.New("descriptors were lost: this process may have no more open (raise its limit of open files)")
		case n == 0 && done == 0:
			return nil, io.EOF
		case n == 0:
			return nil, io.ErrUnexpectedEOF
		}
		// A part without descriptors and what follows it are taken in one go.
		if joined {
			pieces[len(pieces)-1] += uint32(n)
		} else {
			pieces = append(pieces, uint32(n))
		}
		joined = oobn == 0
		done += n
	}
	return pieces, nil
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
	first := true
	return raw.Write(func(uintptr) bool {
		again := !first
		first = false
		return again
	})
}
