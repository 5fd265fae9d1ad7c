package vhostuser

import (
	"os"

	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/handover"
)

// What a session does so that the next process can resume it: see docs/restart.md.

// saveNew begins to persist the session. It stores the connection last: without it the next
// process drops the rest.
func (s *Session) saveNew(store handover.Store) error {
	j, err := handover.NewJournal()
	if err != nil {
		return err
	}
	s.saver = handover.NewSaver(store, j)
	if err := s.saveRecord(); err != nil {
		return err
	}
	if err := s.commit(); err != nil {
		return err
	}
	if err := store.Put(store.Prefix+handover.JournalName, j.FD()); err != nil {
		return err
	}
	return s.conn.control(func(fd uintptr) error { return store.Put(store.Prefix+handover.ConnName, int(fd)) })
}

// saveFiles stores the descriptors of a message, after their kind was checked: others must
// not get into a store, which would have to close them as well.
func (s *Session) saveFiles(m *Message, sl slot) error {
	if s.saver == nil {
		return nil
	}
	if sl != noSlot {
		for _, f := range m.Files {
			if err := s.saver.Save(f); err != nil {
				return err
			}
		}
	}
	failpoint.Hit(failpoint.Put)
	return nil
}

// commit stores the session's present state, and the answer to the message that it acts on:
// the next process would resume from these. An error ends the session.
func (s *Session) commit() error {
	k := s.saver
	if k == nil {
		return nil
	}
	k.Committed = true
	s.state.device, s.state.choices = s.dev.State()
	return k.Journal.Commit(s.encode(nil))
}

// dropUnused drops from the store what the last committed state does not name.
func (s *Session) dropUnused() {
	inUse := []*foreign.FD{s.record.File(), s.dirty.file, s.dirty.call, s.back.file()}
	for _, r := range s.regions {
		inUse = append(inUse, r.file)
	}
	for i := range s.rings {
		r := &s.rings[i]
		inUse = append(inUse, r.kick, r.call, r.err)
	}
	s.saver.DropUnused(inUse...)
}

// runSaved is Run's loop for a session that is persisted: a message stays in the socket until
// its effects, and its answer, have been committed.
func (s *Session) runSaved(m *Message) error {
	if s.saver == nil {
		if err := s.saveNew(*s.opt.Store); err != nil {
			return err
		}
	} else if err := s.finishMessage(); err != nil { // of the previous process
		return err
	}
	k := s.saver
	for {
		var err error
		if k.Pieces, err = s.conn.readAhead(m); err != nil {
			return err
		}
		s.noteSender(m.sender)
		if s.opt.Trace {
			s.log(LevelDebug, "%v", m)
		}
		failpoint.Hit(failpoint.Peeked)
		k.Reply, k.Committed = k.Reply[:0], false
		if err := s.serve(m); err != nil {
			return err
		}
		if err := s.commit(); err != nil {
			return err
		}
		failpoint.Hit(failpoint.Committed)
		if err := s.finishMessage(); err != nil {
			return err
		}
		failpoint.Hit(failpoint.Answered)
		s.dropUnused()
		failpoint.Hit(failpoint.Dropped)
		m.Close()
		if s.suspended.Load() {
			return os.ErrDeadlineExceeded
		}
	}
}

// finishMessage takes the message that was committed last from the socket and
// sends its answer, as far as that has not been done.
func (s *Session) finishMessage() error {
	k := s.saver
	if len(k.Pieces) == 0 {
		return nil
	}
	if err := s.conn.control(func(fd uintptr) error { return k.Journal.TakeMessage(fd, k.Pieces) }); err != nil {
		return err
	}
	failpoint.Hit(failpoint.Taken)
	for len(k.Reply) > 0 {
		var sent bool
		err := s.conn.control(func(fd uintptr) (err error) {
			sent, err = k.Journal.SendAnswer(fd, replyAt, len(k.Reply), s.pass.Int())
			return err
		})
		if err != nil || sent {
			return err
		}
		if err := s.conn.waitWritable(); err != nil {
			return err
		}
	}
	return nil
}

// beforeStart commits before a ring starts: the next process can resume what a worker has
// begun only if the state names the ring. The message counts as acted on then; if the ring
// does not start after all, another commit follows.
func (s *Session) beforeStart() error {
	if s.saver == nil || s.saver.Committed {
		return nil
	}
	return s.commit()
}

// Suspend makes Run stop the queues and return, and leaves the session to the next process:
// the front-end notices nothing. It is for sessions that are persisted. Any goroutine may
// call it.
func (s *Session) Suspend() {
	s.suspended.Store(true)
	s.conn.interrupt() // a front-end may not read its answers either
}
