package vhostuser

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/handover"
)

// readAhead reads the next message of a front-end into m as ReadRequest does,
// and leaves it in the socket, with its descriptors: those in m are duplicates.
// pieces are the parts it came in. The socket remembers how far we have looked
// (SO_PEEK_OFF, socket(7)), so that a message that comes bit by bit can be waited
// for.
func (c *Conn) readAhead(m *Message) (pieces handover.Pieces, err error) {
	m.Close()
	m.Header, m.Payload, m.Surplus, m.sender = Header{}, nil, 0, 0
	pieces, err = c.readAheadInto(m)
	c.whole()
	if err != nil {
		m.Close()
	}
	return pieces, err
}

func (c *Conn) readAheadInto(m *Message) (pieces handover.Pieces, err error) {
	err = c.control(func(fd uintptr) error { return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0) })
	if err != nil {
		return nil, fmt.Errorf("SO_PEEK_OFF: %w", err)
	}
	joined := false // the next part continues the last one
	for have, want := 0, HeaderSize; have < want; {
		var part Message // of its descriptors
		// The descriptors that a peek finds belong to the last byte, or to what is behind it if
		// the buffer is full: the kernel continues to peek then
		// (net/unix/af_unix.c, unix_stream_read_generic).
		n, err := c.recv(&part, m.buf[have:], unix.MSG_PEEK, have > 0)
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
			// A peek continues until it has found descriptors, or the end. These belong to
			// a message behind this one: each is sent by itself.
			n -= have - want
			part.Close()
			part.Surplus, fds = 0, 0 // duplicates: the message behind has them still
		}
		// A part without descriptors and what follows it are taken in one go, but for
		// what another process has sent: the kernel joins no such parts either.
		joined = joined && part.sender == m.sender
		m.takeOver(&part)
		pieces = pieces.Add(n, joined)
		joined = fds == 0
		if len(pieces) > handover.MaxPieces {
			return nil, fmt.Errorf("reading a message: it came with descriptors in more than %d places: send all of them with its first byte", handover.MaxPieces)
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
	m.sender = part.sender
	// The last of a message's descriptors must not be closed by taking it from the socket.
	m.surplus = append(append(m.surplus, part.Files[n:]...), part.surplus...)
	part.Files, part.surplus = nil, nil
}
