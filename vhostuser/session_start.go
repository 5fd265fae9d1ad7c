package vhostuser

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/vhostuser/handover"
	"github.com/zvhost/zvhost/virtio/transport"
)

// How rings start and stop: see session_ring.go.

// pause stops ring i if it runs, and stores the point at which it continues.
func (s *Session) pause(i int) (ran bool) {
	r := &s.rings[i]
	if !r.running {
		return false
	}
	g := &s.state.rings[i]
	g.base, g.baseSet = s.dev.StopQueue(i, s.doing), true
	g.life, g.adopted = nextLife(g.life), false // what is in flight: nothing
	r.running = false
	return true
}

func (s *Session) pauseAll() {
	for i := range s.rings {
		s.pause(i)
	}
}

// ready reports whether ring i has all that it needs but, perhaps, memory where
// its addresses point to.
func (s *Session) ready(i int) bool {
	r := &s.state.rings[i]
	return s.state.featuresSet && r.num != 0 && r.addrSet && r.enabled && s.rings[i].kick != nil && s.mem != nil
}

// resume starts ring i if it is ready and does not run.
func (s *Session) resume(i int) error {
	r := &s.state.rings[i]
	s.warnOfNoMemory(i)
	if s.rings[i].running || !s.ready(i) {
		return nil
	}
	r.refused = false // for a commit before it starts
	err := s.start(i)
	r.refused = err != nil
	return err
}

// warnOfNoMemory logs, once, that a front-end has set up a ring and given no memory. QEMU
// does not report that it has none to share.
func (s *Session) warnOfNoMemory(i int) {
	if s.memoryGiven || s.loggedNoMemory || s.rings[i].kick == nil || !s.state.rings[i].enabled {
		return
	}
	s.loggedNoMemory = true
	s.warn("ring %d is set up, but the front-end has given no memory, and it cannot start without: %s", i, mustShare)
}

// start starts ring i, which is ready.
func (s *Session) start(i int) error {
	r, p := &s.state.rings[i], &s.rings[i]
	lay := s.layout(i)
	if err := lay.Check(); err != nil {
		return uncoveredError{i, err}
	}
	rec := s.record.Ring(i)
	if rec == nil && s.saver != nil {
		return fmt.Errorf("ring %d: the record of requests in flight was made for %d queues, and without one the next zvhost could not resume it: ask GET_INFLIGHT_FD for as many queues as are used", i, s.record.Rings())
	}
	log, usedLog, logCall, err := s.ringLog(i)
	if err != nil {
		return err
	}
	for k := range s.rings { // those that are set up; QEMU starts them when all are
		s.reconnected = s.reconnected || s.usedElsewhere(k)
	}
	s.dev.BeginRing(s.usedElsewhere(i))
	r.ours = true
	if err := s.beforeStart(); err != nil {
		return err
	}
	err = s.dev.StartQueue(i, transport.Ring{
		Size: r.num, Desc: r.desc, Avail: r.avail, Used: r.used, Base: s.base(i),
		Features: s.state.features &^ ownFeatures, Mem: s.mem,
		Kick: p.kick.Int(), Call: p.call.Int(), Err: p.err.Int(), NoMemory: noMemory,
		Log: log, UsedLog: usedLog, LogCall: logCall,
		Record: rec, Life: r.life, Records: s.record, Held: s.held, Reconnected: s.reconnected,
	})
	if err != nil {
		return startError{i, err}
	}
	p.running = true
	failpoint.Hit(failpoint.Started)
	return nil
}

// usedElsewhere reports whether ring i continues at a point that the front-end has set, and
// neither at its beginning nor where this session has stopped it.
func (s *Session) usedElsewhere(i int) bool { return !s.state.rings[i].ours && s.inMidstream(i) }

// inMidstream reports whether ring i continues behind its beginning: its driver has used it.
func (s *Session) inMidstream(i int) bool {
	if rec := s.record.Ring(i); rec != nil && rec.Life() == s.state.rings[i].life {
		return true
	}
	if s.packed() {
		return s.base(i) != packedStart
	}
	return s.base(i) != 0
}

// resumeAll starts every ring that is ready. If one fails the others start all the same; the
// first failure is returned, others are logged.
func (s *Session) resumeAll() (first error) {
	s.retryRefused()
	for i := range s.rings {
		s.firstError(&first, s.resume(i))
	}
	return first
}

// retryRefused has all rings that were refused tried again. The commit before the first one
// starts is for all of them.
func (s *Session) retryRefused() {
	for i := range s.rings {
		s.state.rings[i].refused = false
	}
}

// firstError stores err in first, or logs it if there was one before.
func (s *Session) firstError(first *error, err error) {
	switch {
	case err == nil:
	case *first == nil:
		*first = err
	default:
		s.warn("%v", err)
	}
}

// resumeCovered is resumeAll while memory is being rearranged: a ring without
// memory is not an error, it waits for the next region.
func (s *Session) resumeCovered() (first error) {
	s.retryRefused()
	for i := range s.rings {
		err := s.resume(i)
		if errors.As(err, new(uncoveredError)) {
			s.warn("%v; it waits for other memory", err)
			continue
		}
		s.firstError(&first, err)
	}
	return first
}

// resumeSaved starts the rings that ran in the previous process. Rings that it refused, or
// that are not valid, stay stopped. If the device does not start a ring (there is no engine,
// the disk is in use) another process has to resume the session, unless the start was
// unconfirmed and the ring never ran. No ring is served before all have started, since a
// request in flight in one may wait for one in another.
func (s *Session) resumeSaved() error {
	s.held = true
	var refused error
	for i := range s.rings {
		if s.state.rings[i].refused && s.ready(i) {
			s.warn("ring %d was refused in the previous process: it stays stopped until the front-end sets it up anew", i)
			continue
		}
		err := s.resume(i)
		switch {
		case errors.As(err, new(startError)) && (!s.rings[i].startUnconfirmed || s.ran(i)):
			return handover.UnfitError{Err: err}
		case errors.As(err, new(startError)):
			s.firstError(&refused, err)
		case err != nil:
			s.warn("%v; it stays stopped until the front-end sets it up anew", err)
		}
	}
	if refused != nil {
		if err := s.refuseSaved(refused); err != nil {
			return err
		}
	}
	s.held = false
	s.dev.Serve()
	return nil
}

// ran reports whether ring i ran when the present message arrived, or has since: the record has
// its generation, or the one that the message has ended.
func (s *Session) ran(i int) bool {
	life := s.record.Ring(i).Life()
	return life != 0 && (life == s.state.rings[i].life || nextLife(life) == s.state.rings[i].life)
}

// refuseSaved refuses the message that the previous process was acting on when it died, as
// that one would have: the ring that it was to start does not start here either, because of
// err, and never ran.
func (s *Session) refuseSaved(err error) error {
	h, herr := ParseHeader(s.saver.Reply[:min(HeaderSize, len(s.saver.Reply))])
	if herr != nil || h.Request.row().replies { // the answer cannot report an error
		return errors.New(err.Error()) // without what err wraps, so that no other process is waited for
	}
	s.warn("refused %v: %v", h.Request, err)
	s.stage(&Message{Header: h}, AppendU64(nil, 1))
	return s.commit()
}

// allStopped reports whether all rings are stopped, as the protocol defines it.
func (s *Session) allStopped() bool {
	for i := range s.rings {
		if s.rings[i].kick != nil {
			return false
		}
	}
	return true
}

func (s *Session) anyRunning() int {
	for i := range s.rings {
		if s.rings[i].running {
			return i
		}
	}
	return -1
}

// uncoveredError: a ring does not lie in memory.
type uncoveredError struct {
	ring int
	err  error
}

func (e uncoveredError) Error() string { return fmt.Sprintf("ring %d: %v", e.ring, e.err) }

// startError: the device does not start a ring.
type startError struct {
	ring int
	err  error
}

func (e startError) Error() string { return fmt.Sprintf("ring %d does not start: %v", e.ring, e.err) }
func (e startError) Unwrap() error { return e.err }
