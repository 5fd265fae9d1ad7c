package vfiouser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// Options are what a session is made with beyond its connection and device. The zero value
// is good.
type Options struct {
	// Log takes the session's log lines; nil drops them. Only Run's goroutine calls it. The
	// error that Run returns is not logged: that is the caller's.
	Log LogFunc
	// Trace logs each message in words, at LevelDebug.
	Trace bool
}

// A Session serves one client: it reads commands, checks them, passes them to the device and
// replies.
type Session struct {
	conn *Conn
	dev  Device
	opt  Options
	info Info

	state state
	irqs  [][]vector // by index; nil: the client has set up none

	warnings int
	strange  bool // a descriptor of the client's was refused, and may be left over
	closed   atomic.Bool
	ending   atomic.Bool
}

// state is the part of a session that is plain data.
type state struct {
	negotiated bool
	minor      uint16
	maxData    uint32 // the most data that the client accepts in a reply
	maps       []dmaMap
}

// NewSession makes a session that takes over uc and drives dev. Run must be called, else
// nothing of it is released.
func NewSession(uc *net.UnixConn, dev Device, opt Options) (*Session, error) {
	info := dev.Info()
	if err := info.check(); err != nil {
		panic(err)
	}
	conn, err := NewConn(uc)
	if err != nil {
		return nil, err
	}
	return &Session{conn: conn, dev: dev, opt: opt, info: info, irqs: make([][]vector, len(info.IRQs))}, nil
}

// check says what is wrong with a device: a bug in this program.
func (i *Info) check() error {
	if n := len(i.Regions); n < 1 || n > MaxRegions {
		return fmt.Errorf("vfiouser: a device with %d regions, it can have 1 to %d", n, MaxRegions)
	}
	if n := len(i.IRQs); n > MaxIRQs {
		return fmt.Errorf("vfiouser: a device with %d interrupt types, it can have %d", n, MaxIRQs)
	}
	for n, irq := range i.IRQs {
		if irq.Count > MaxVectors || irq.Flags&^(IRQEventfd|IRQMaskable) != 0 {
			return fmt.Errorf("vfiouser: a device whose interrupt type %d has %d vectors and flags %#x", n, irq.Count, irq.Flags)
		}
	}
	return nil
}

// Close makes Run end. Any goroutine may call it, any number of times; it does not wait.
func (s *Session) Close() {
	s.closed.Store(true)
	_ = s.conn.Close() // a second close reports an error that means nothing
}

// Run serves the client until it leaves or Close is called, then it returns nil, or until
// something is wrong, then it returns what. In each case the device is disconnected and every
// descriptor closed. Run is called once.
func (s *Session) Run() error {
	defer s.end()
	m := new(Message)
	defer m.Close()
	for {
		if err := s.conn.ReadCommand(m); err != nil {
			if err == io.EOF || s.closed.Load() {
				return nil
			}
			return err
		}
		if s.opt.Trace {
			s.log(LevelDebug, "%v", m)
		}
		if err := s.serve(m); err != nil {
			if s.closed.Load() && errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		m.Close()
	}
}

func (s *Session) end() {
	s.ending.Store(true)
	s.Close()
	s.dev.Disconnect()
	for _, vectors := range s.irqs {
		for i := range vectors {
			vectors[i].close()
		}
	}
}

// serve acts on one command and replies. An error ends the session.
func (s *Session) serve(m *Message) error {
	if s.strange && foreign.Exhausted() {
		return errExhausted
	}
	r := m.Command.row()
	sent := len(m.Files) + m.Surplus
	if !s.state.negotiated && (m.Command != Version || m.Flags&FlagNoReply != 0) {
		return fmt.Errorf("%v before VERSION with a reply, which has to be the first command", m)
	}
	err := m.admit(&r)
	var reply []byte
	if err == nil {
		reply, err = r.handle(s, m)
	}
	if err != nil {
		s.strange = s.strange || sent > 0
		s.warn("refused %v: %v", m, err)
		reply = nil
	}
	if m.Flags&FlagNoReply == 0 {
		if rerr := s.reply(m, reply, err); rerr != nil {
			return rerr
		}
	}
	if !s.state.negotiated {
		return fmt.Errorf("%v: %w", m.Command, err)
	}
	return nil
}

// errExhausted ends a session that has had its part in it, and the process after it.
var errExhausted = errors.New("too many descriptors of clients cannot be closed: another process has to take the place of this one")

// reply answers m. A reply to a command that was refused is a header only.
func (s *Session) reply(m *Message, payload []byte, refused error) error {
	h := Header{ID: m.ID, Command: m.Command, Flags: FlagReply}
	if refused != nil {
		h.Flags |= FlagError
		h.Errno = uint32(errnoOf(refused))
	}
	if s.opt.Trace {
		a := Message{Header: h, Payload: payload}
		s.log(LevelDebug, "%v", &a)
	}
	return s.conn.Write(h, payload)
}

// errnoOf is what the client receives for an error.
func errnoOf(err error) unix.Errno {
	var r *Refusal
	var e unix.Errno
	switch {
	case errors.As(err, &r):
		return r.Errno
	case errors.As(err, &e) && e != 0:
		return e
	}
	return unix.EIO
}

// maxWarnings is how many warnings one session may cause: a client must not be able to fill
// the log.
const maxWarnings = 10

// warn logs what the client did wrong.
func (s *Session) warn(format string, args ...any) {
	if s.warnings++; s.warnings > maxWarnings {
		s.log(LevelDebug, format, args...)
		return
	}
	s.log(LevelWarn, format, args...)
	if s.warnings == maxWarnings {
		s.log(LevelWarn, "%d warnings so far for this client, further ones are logged for debugging only", maxWarnings)
	}
}

func (s *Session) log(l Level, format string, args ...any) {
	if s.opt.Log != nil {
		s.opt.Log(l, format, args...)
	}
}

// Presence says what is known of a session's client.
type Presence uint8

// What may be known of it.
const (
	Here Presence = iota // as far as can be seen
	Busy                 // a message has begun, is acted on, or is being answered
	Left                 // it has hung up, or the session ends
)

// Presence says whether the client is still there. Any goroutine may call it.
func (s *Session) Presence() Presence {
	switch {
	case s.ending.Load(), s.closed.Load(), s.conn.gone():
		return Left
	case s.conn.busy():
		return Busy
	}
	return Here
}
