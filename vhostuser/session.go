package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/handover"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// Options are what a session has beside its connection and device. The zero value is
// valid.
type Options struct {
	// Log takes the session's log lines; nil drops them. It is called from Run's
	// goroutine, and from what Behind runs. The error that Run returns is not logged.
	Log LogFunc
	// Trace logs each message in words, at LevelDebug.
	Trace bool
	// Behind runs work in the background: unmapping the memory of a session that has ended,
	// which takes a moment for each GiB. nil: at once.
	Behind func(func())
	// Store is where to put what has to outlive this process; nil for nowhere.
	Store *handover.Store
}

// A Session serves one front-end: it reads messages, stores their contents, and starts and
// stops the device's queues accordingly.
type Session struct {
	conn *Conn
	dev  transport.Device
	opt  Options

	state state

	// What belongs to state, but lives only in this process.
	mem      *guestmem.Memory // nil: no regions
	dirty    dirtyLog
	back     backChannel
	regions  []region                 // as state.regions
	rings    []ring                   // as many as the device has queues
	record   *inflight.Record         // of what is in flight; nil: no later process will resume it
	saver    *handover.Saver          // nil: the session ends with the process
	pass     *foreign.FD              // goes with the answer to the message at hand; lent
	transfer atomic.Pointer[transfer] // of the device's state; nil: none
	// statePatience is the constant, but for tests.
	statePatience time.Duration

	held        bool   // rings start Held, and none is served
	reconnected bool   // see Ring.Reconnected; until the device is reset
	doing       string // what the session does, for the log where that takes long
	warnings    int
	// loggedFeatures: the negotiated features are logged.
	loggedFeatures bool
	refusals       refusals
	// memoryGiven: the front-end has given memory. loggedNoMemory: it is logged that it has not.
	memoryGiven, loggedNoMemory bool
	// loggedSlowMemory: it is logged that the memory is a file of a disk.
	loggedSlowMemory bool
	closed           atomic.Bool

	suspended atomic.Bool
	strange   bool // a descriptor of the front-end was refused, and perhaps cannot be closed

	deathMu    sync.Mutex // guards over
	over       bool       // the device is another session's
	sender     sender
	ending     atomic.Bool
	superseded atomic.Bool
}

// region is a memory region in this process. The descriptor stays open so that the next
// process can map it again.
type region struct {
	file *foreign.FD
	mem  *guestmem.Region
}

// ring is what a ring has in this process.
type ring struct {
	kick, call, err  *foreign.FD
	running          bool // the device has it
	startUnconfirmed bool // the previous process committed that it would start this ring, and died before it confirmed the start
}

// NewSession makes a session that takes over uc and drives dev. Run must be
// called, else nothing of it is released.
func NewSession(uc *net.UnixConn, dev transport.Device, opt Options) *Session {
	queues := dev.Queues()
	if queues < 1 || queues > transport.MaxQueues {
		panic(fmt.Sprintf("vhostuser: a device with %d queues, the protocol has 1 to %d", queues, transport.MaxQueues))
	}
	s := &Session{conn: NewConn(uc), dev: dev, opt: opt, rings: make([]ring, queues), statePatience: statePatience}
	s.conn.limit = MessageLimit
	s.passCredentials()
	for i := range s.rings {
		s.state.rings[i].life = 1
	}
	return s
}

// Close makes Run come to an end. Any goroutine may call it, any number of
// times; it does not wait.
func (s *Session) Close() {
	s.closed.Store(true)
	s.transfer.Load().interrupt()
	end := s.conn.hangUp
	if s.suspended.Load() {
		end = s.conn.Close
	}
	_ = end() // a second close reports an error that means nothing
}

// Run serves the front-end until it leaves or Close is called, then it returns
// nil, or until something is wrong, then it returns what. In each case every
// queue is stopped (what was in flight is answered), every descriptor closed,
// the memory unmapped (by Options.Behind) and the device reset. Run is called once.
func (s *Session) Run() error {
	s.dev.Watch(s.configChanged)
	defer s.end()
	m := new(Message)
	defer m.Close()
	loop := s.runPlain
	if s.opt.Store != nil {
		loop = s.runSaved
	}
	switch err := loop(m); {
	case s.suspended.Load() && errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case err == io.EOF:
		s.suspended.Store(false)
		return nil
	case s.closed.Load() && errors.Is(err, net.ErrClosed):
		return nil
	default:
		s.suspended.Store(false) // no process can resume it
		return err
	}
}

// runPlain serves one message after the other.
func (s *Session) runPlain(m *Message) error {
	for {
		if err := s.conn.ReadRequest(m); err != nil {
			if s.closed.Load() && err != io.EOF {
				return net.ErrClosed // the read of a closed connection may return another error
			}
			return err
		}
		s.noteSender(m.sender)
		if s.opt.Trace {
			s.log(LevelDebug, "%v", m)
		}
		if err := s.serve(m); err != nil {
			return err
		}
		m.Close()
	}
}

// end releases everything. A suspended session stays in the store.
func (s *Session) end() {
	s.ending.Store(true)
	leaves := s.suspended.Load()
	if s.saver != nil && !leaves {
		s.saver.DropAll()
	}
	switch {
	case leaves:
		s.doing = "the hand-over to the next process"
	case s.superseded.Load():
		s.doing = "the end of the session of a front-end that is dead"
	case s.closed.Load():
		s.doing = "the end of the daemon"
	default:
		s.doing = "the end of the front-end's session"
	}
	s.Close()
	s.dev.Watch(nil)
	over := s.watchDeath()
	s.release(leaves, false)
	over()
	s.sender.close()
	if s.saver != nil {
		if err := s.saver.Journal.Close(); err != nil {
			s.log(LevelWarn, "%v", err)
		}
	}
}

// serve acts on one message and answers it. An error ends the session.
func (s *Session) serve(m *Message) error {
	r := m.Request.row()
	s.doing = m.Request.String()
	if s.strange && foreign.Exhausted() {
		return errExhausted
	}
	sent := len(m.Files)
	wantAck := m.Flags&FlagNeedReply != 0 && !r.replies
	if wantAck && s.state.protocol&ProtocolReplyAck == 0 && m.Request != SetProtocolFeatures {
		return fmt.Errorf("%v: need_reply is set, but REPLY_ACK was not negotiated", m.Request)
	}
	var reply []byte
	s.pass = nil
	err := m.admit(r, s.state.protocol)
	if s.saver != nil && (r.replies || wantAck && s.state.protocol&ProtocolReplyAck != 0) {
		s.stage(m, AppendU64(nil, 0)) // what it will be, most likely, where rings start: see beforeStart
	}
	acked := s.state.protocol&ProtocolReplyAck != 0
	if err == nil {
		if perr := s.saveFiles(m, r.slot); perr != nil {
			return perr
		}
		if !m.Request.mayPrecedeOwner() {
			s.state.protocolNew, s.state.backNew = false, false
		}
		reply, err = r.handle(s, m)
	}
	if sent > 0 && err != nil {
		s.strange = true
	}
	// The message that negotiates REPLY_ACK may already make use of it, and so may the
	// one that ends it: see setOwner.
	wantAck = wantAck && (acked || s.state.protocol&ProtocolReplyAck != 0)
	switch {
	case err == nil && r.replies:
		return s.answer(m, reply)
	case err == nil && wantAck:
		return s.answer(m, AppendU64(nil, 0))
	case err == nil:
		s.unstage()
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

// errExhausted ends a session whose front-end has sent such descriptors, and then the process.
// A session of a well-behaved front-end continues.
var errExhausted = errors.New("too many descriptors of front-ends cannot be closed: another process has to take the place of this one")

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
	if s.saver != nil {
		s.stage(m, payload)
	}
	if s.opt.Trace {
		a := Message{Header: Header{m.Request, Version | FlagReply, uint32(len(payload))}, Payload: payload}
		s.log(LevelDebug, "answer: %v", &a)
	}
	if s.saver != nil {
		return nil // runSaved sends it, once it is committed
	}
	return s.conn.Write(m.Request, Version|FlagReply, payload, s.passing()...)
}

// passing is the descriptor that is sent with the answer, if there is one.
func (s *Session) passing() []int {
	if s.pass == nil {
		return nil
	}
	return []int{s.pass.Int()}
}

// stage makes payload the answer to m that the next commit stores.
func (s *Session) stage(m *Message, payload []byte) {
	s.saver.Reply = append(Header{m.Request, Version | FlagReply, uint32(len(payload))}.Append(s.saver.Reply[:0]), payload...)
}

// unstage makes the next commit store no answer.
func (s *Session) unstage() {
	if s.saver != nil {
		s.saver.Reply = s.saver.Reply[:0]
	}
}

func (s *Session) log(level Level, format string, args ...any) {
	if s.opt.Log != nil {
		s.opt.Log(level, format, args...)
	}
}

// drop closes a descriptor and clears it.
func (s *Session) drop(f **foreign.FD) {
	if err := (*f).Close(); err != nil {
		s.log(LevelWarn, "closing a descriptor: %v", err)
	}
	*f = nil
}
