package vhostuser

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// From the first byte or descriptor of a message on a front-end is not taken for one that
// does nothing, until the session waits for a message of which nothing has come: not in
// the socket, not between two steps of the session, and never again after an error, until
// the session ends. Run is not called, so each step is held for as long as it is looked at.
func TestPresenceIsContinuous(t *testing.T) {
	whole := Header{GetFeatures, Version, 0}.Append(nil)
	half := func(p *peer) {
		fd := p.own()
		p.raw(whole[:5], fd)
		_ = unix.Close(fd)
	}
	for _, kept := range []bool{false, true} {
		for _, c := range []struct {
			name string
			send func(p *peer)
			do   func(s *Session) error // nil: nothing has been read
			want error
		}{
			{"in the socket", half, nil, nil},
			{"a descriptor in the socket", func(p *peer) { p.raw(whole[:1], pair(t)[0]) }, nil, nil},
			{"a whole message that is not acted on yet", func(p *peer) { p.raw(whole) }, func(s *Session) error { return s.readAny(kept) }, nil},
			{"half a message, its time is up", half, func(s *Session) error { return s.readAny(kept) }, errHalfMessage},
			{"half a payload, its time is up", func(p *peer) { p.raw(append(Header{SetVringCall, Version, 8}.Append(nil), 0, 0)) }, func(s *Session) error { return s.readAny(kept) }, errHalfMessage},
			{"an answer that is not taken", func(p *peer) { p.raw(whole) }, func(s *Session) error {
				if err := s.readAny(kept); err != nil {
					return err
				}
				for {
					if err := s.conn.Write(GetFeatures, Version|FlagReply, make([]byte, MaxPayload)); err != nil {
						return err
					}
				}
			}, errNotTaken},
		} {
			name := c.name
			if kept {
				name += ", kept"
			}
			t.Run(name, func(t *testing.T) {
				near, far := socketPair(t)
				p := &peer{t: t, conn: NewConn(near)}
				s := NewSession(far, new(fakeDevice), Options{})
				t.Cleanup(func() { _, _ = p.conn.Close(), s.conn.Close() })
				s.conn.limit = time.Millisecond
				s.conn.idle.Store(true) // as it is while nothing comes
				c.send(p)
				if c.do != nil {
					if err := c.do(s); !errors.Is(err, c.want) {
						t.Fatalf("%v, not %v", err, c.want)
					}
				}
				if got := s.Presence(); got != Busy {
					t.Errorf("presence %d, not %d", got, Busy)
				}
			})
		}
	}
}

// readAny reads a message as a session does.
func (s *Session) readAny(kept bool) (err error) {
	m := new(Message)
	defer m.Close()
	if kept {
		_, err = s.conn.readAhead(m)
		return err
	}
	return s.conn.ReadRequest(m)
}
