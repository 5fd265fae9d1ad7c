package vhostuser

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/internal/failpoint"
)

// How rings start and stop: see session_ring.go.

// pause stops ring i if it runs, keeping where it was.
func (s *Session) pause(i int) (ran bool) {
	r := &s.rings[i]
	if !r.running {
		return false
	}
	g := &s.state.rings[i]
	g.base, g.baseSet = s.dev.StopQueue(i, s.doing), true
	g.life, g.adopted = g.life+1, false // what is in flight: nothing
	r.running = false
	return true
}

func (s *Session) pauseAll() {
	for i := range s.rings {
		s.pause(i)
	}
}

// ready says whether ring i has all that it needs but, perhaps, memory where
// its addresses point to.
func (s *Session) ready(i int) bool {
	r := &s.state.rings[i]
	return s.state.featuresSet && r.num != 0 && r.addrSet && r.enabled && s.rings[i].kick != nil && s.mem != nil
}

// resume starts ring i if it is ready and does not run.
func (s *Session) resume(i int) error {
	r, p := &s.state.rings[i], &s.rings[i]
	if p.running || !s.ready(i) {
		return nil
	}
	if err := covered(s.mem, r, s.state.features); err != nil {
		return uncoveredError{i, err}
	}
	log, usedLog, logCall, err := s.ringLog(i)
	if err != nil {
		return err
	}
	if err := s.beforeStart(); err != nil {
		return err
	}
	err = s.dev.StartQueue(i, Ring{
		Size: r.num, Desc: r.desc, Avail: r.avail, Used: r.used, Base: s.base(i),
		Features: s.state.features &^ ownFeatures, Mem: s.mem,
		Kick: p.kick.Int(), Call: p.call.Int(), Err: p.err.Int(),
		Log: log, UsedLog: usedLog, LogCall: logCall,
		Record: s.recordOf(i), Life: r.life,
	})
	if err != nil {
		return fmt.Errorf("ring %d does not start: %w", i, err)
	}
	p.running = true
	failpoint.Hit(failpoint.Started)
	return nil
}

// resumeAll starts every ring that is ready. One that fails does not keep the
// others from running; the first failure is returned, others are logged.
func (s *Session) resumeAll() (first error) {
	for i := range s.rings {
		s.keepFirst(&first, s.resume(i))
	}
	return first
}

func (s *Session) keepFirst(first *error, err error) {
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
	for i := range s.rings {
		err := s.resume(i)
		if errors.As(err, new(uncoveredError)) {
			s.warn("%v; it waits for other memory", err)
			continue
		}
		s.keepFirst(&first, err)
	}
	return first
}

// uncoveredError is a ring that does not lie in memory.
type uncoveredError struct {
	ring int
	err  error
}

func (e uncoveredError) Error() string { return fmt.Sprintf("ring %d: %v", e.ring, e.err) }

// allStopped says whether all rings are stopped in the protocol's words.
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
