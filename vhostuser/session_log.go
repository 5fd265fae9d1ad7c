package vhostuser

import (
	"fmt"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// The messages that have writes to guest memory logged while a machine moves to
// another host ("Migration"): where the log is, and, in SET_FEATURES and
// SET_VRING_ADDR, that it is to be used. A ring gets it when it starts, so a message that
// changes it pauses the rings; nothing is in flight then.

// dirtyLog is the log in this process. The descriptor stays open so that the next process can
// map it again.
type dirtyLog struct {
	log  *guestmem.Log // nil: the front-end has given none
	file *foreign.FD
	call *foreign.FD // SET_LOG_FD
}

// logging reports whether writes are to be marked.
func (s *Session) logging() bool {
	return s.state.features&FeatureLogAll != 0 && s.dirty.log != nil
}

// setLogBase changes the log. It is answered when nothing is marked in the old one any more:
// the front-end reads that then.
func (s *Session) setLogBase(m *Message) ([]byte, error) {
	area, err := ParseLogArea(m.Payload)
	if err != nil {
		return nil, err
	}
	file := m.Take(0)
	log, err := guestmem.MapLog(file.Int(), area.Size, area.Offset)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	s.pauseAll()
	s.freeLog()
	s.dirty.log, s.dirty.file = log, file
	s.state.logSize, s.state.logOffset = area.Size, area.Offset
	return AppendU64(nil, 0), s.resumeAll()
}

// setLogFD takes the descriptor that notifies the front-end of marks.
func (s *Session) setLogFD(m *Message) ([]byte, error) {
	if err := notifier(m.Files[0]); err != nil {
		return nil, fmt.Errorf("dirty log: %w", err)
	}
	s.pauseAll()
	s.drop(&s.dirty.call)
	s.dirty.call = m.Take(0)
	return nil, s.resumeAll()
}

// setLogging is SET_FEATURES with no other bit changed than the one that switches
// logging, which may come while rings run.
func (s *Session) setLogging(features uint64) error {
	s.pauseAll()
	s.state.features = features
	if features&FeatureLogAll != 0 && s.dirty.log == nil {
		s.warn("SET_FEATURES: writes are to be logged (VHOST_F_LOG_ALL), but there is no log: nothing is marked until SET_LOG_BASE")
	}
	return s.resumeAll()
}

// ringLog is what ring i needs to know of the log.
func (s *Session) ringLog(i int) (log *guestmem.Log, used uint64, call int, err error) {
	if !s.logging() {
		return nil, 0, -1, nil
	}
	r := &s.state.rings[i]
	if !r.logUsed {
		return s.dirty.log, guestmem.Unlogged, s.dirty.call.Int(), nil
	}
	// "the bit offset of the last byte of the ring must fall within the size
	// supplied by VhostUserLog"
	used = r.log
	lay := s.layout(i)
	if size := lay.UsedBytes(); !s.dirty.log.Covers(used, size) {
		return nil, 0, -1, fmt.Errorf("ring %d: its used ring of %d bytes is to be logged at guest address %#x, which the dirty log of %#x bytes does not cover", i, size, used, s.state.logSize)
	}
	return s.dirty.log, used, s.dirty.call.Int(), nil
}

// freeLog unmaps the log. No ring may run.
func (s *Session) freeLog() {
	if s.dirty.log != nil {
		if err := s.dirty.log.Unmap(); err != nil {
			s.log(LevelWarn, "%v", err)
		}
		s.dirty.log = nil
	}
	s.drop(&s.dirty.file)
	s.state.logSize, s.state.logOffset = 0, 0
}
