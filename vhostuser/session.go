package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Options are what a session may be told beyond its connection and device. The
// zero value is good.
type Options struct {
	// Log takes the session's log lines; nil drops them. It is called from Run's
	// goroutine. The error that Run returns is not logged: that is the caller's.
	Log LogFunc
	// Trace logs each message in words, at LevelDebug.
	Trace bool
}

// A Session serves one front-end: it reads messages, keeps what they say, and
// starts and stops the device's queues accordingly.
type Session struct {
	conn *Conn
	dev  Device
	opt  Options

	state state

	// What belongs to state, but lives only in this process.
	mem     *guestmem.Memory // nil: no regions
	dirty   dirtyLog
	regions []region // as state.regions
	rings   []ring   // as many as the device has queues

	warnings int
	greeted  bool // the line that says what was agreed on is logged
	closed   atomic.Bool
}

// region is a memory region in this process. The descriptor is kept so that
// another process can map it again.
type region struct {
	file *FD
	mem  *guestmem.Region
}

// ring is what a ring has in this process.
type ring struct {
	kick, call, err *FD
	running         bool // the device has it
}

// NewSession makes a session that takes over uc and drives dev. Run must be
// called, else nothing of it is given back.
func NewSession(uc *net.UnixConn, dev Device, opt Options) *Session {
	queues := dev.Queues()
	if queues < 1 || queues > MaxQueues {
		panic(fmt.Sprintf("vhostuser: a device with %d queues, the protocol has 1 to %d", queues, MaxQueues))
	}
	return &Session{conn: NewConn(uc), dev: dev, opt: opt, rings: make([]ring, queues)}
}

// Close makes Run come to an end. Any goroutine may call it, any number of
// times; it does not wait.
func (s *Session) Close() {
	s.closed.Store(true)
	_ = s.conn.Close() // a second close reports an error that means nothing
}

// Run serves the front-end until it leaves or Close is called, then it returns
// nil, or until something is wrong, then it returns what. In each case every
// queue is stopped (what was in flight is answered), every descriptor closed,
// the memory unmapped and the device reset. Run is called once.
func (s *Session) Run() error {
	defer s.end()
	m := new(Message)
	defer m.Close()
	for {
		err := s.conn.ReadRequest(m)
		switch {
		case err == nil:
		case err == io.EOF:
			return nil
		case s.closed.Load():
			return nil // whatever the read says of a connection closed under it
		default:
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

// end gives everything back.
func (s *Session) end() {
	s.Close()
	for i := range s.rings {
		s.pause(i)
		r := &s.rings[i]
		for _, f := range []**FD{&r.kick, &r.call, &r.err} {
			s.drop(f)
		}
	}
	s.freeRegions(s.regions)
	s.regions, s.mem = nil, nil
	s.freeLog()
	s.drop(&s.dirty.call)
	s.dev.Reset()
}

// serve acts on one message and answers it. An error ends the session.
func (s *Session) serve(m *Message) error {
	r := m.Request.row()
	wantAck := m.Flags&FlagNeedReply != 0 && !r.replies
	if wantAck && s.state.protocol&ProtocolReplyAck == 0 && m.Request != SetProtocolFeatures {
		return fmt.Errorf("%v: need_reply is set, but REPLY_ACK was not negotiated", m.Request)
	}
	var reply []byte
	err := m.admit(r, s.state.protocol)
	if err == nil {
		reply, err = r.handle(s, m)
	}
	// The message that negotiates REPLY_ACK may already make use of it.
	wantAck = wantAck && s.state.protocol&ProtocolReplyAck != 0
	switch {
	case err == nil && r.replies:
		return s.answer(m, reply)
	case err == nil && wantAck:
		return s.answer(m, AppendU64(nil, 0))
	case err == nil:
		return nil
	case r.emptyOnError:
		s.warn("refused %v: %v", m, err)
		return s.answer(m, nil)
	case wantAck:
		s.warn("refused %v: %v", m, err)
		return s.answer(m, AppendU64(nil, 1))
	}
	return fmt.Errorf("%v: %w", m.Request, err)
}

// maxWarnings is how many warnings one session is worth: a front-end must not be
// able to fill the log.
const maxWarnings = 10

// warn logs what the front-end did wrong.
func (s *Session) warn(format string, args ...any) {
	if s.warnings++; s.warnings > maxWarnings {
		s.log(LevelDebug, format, args...)
		return
	}
	s.log(LevelWarn, format, args...)
	if s.warnings == maxWarnings {
		s.log(LevelWarn, "%d warnings so far for this front-end, further ones are logged for debugging only", maxWarnings)
	}
}

func (s *Session) answer(m *Message, payload []byte) error {
	if s.opt.Trace {
		a := Message{Header: Header{m.Request, Version | FlagReply, uint32(len(payload))}, Payload: payload}
		s.log(LevelDebug, "answer: %v", &a)
	}
	return s.conn.Write(m.Request, Version|FlagReply, payload)
}

func (s *Session) log(level Level, format string, args ...any) {
	if s.opt.Log != nil {
		s.opt.Log(level, format, args...)
	}
}

// drop closes a descriptor and forgets it.
func (s *Session) drop(f **FD) {
	if err := (*f).Close(); err != nil {
		s.log(LevelWarn, "closing a descriptor: %v", err)
	}
	*f = nil
}
