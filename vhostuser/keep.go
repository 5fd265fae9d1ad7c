package vhostuser

import (
	"fmt"
	"os"
	"strconv"

	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/internal/foreign"
)

// A Keep is where a session puts what has to outlive the process, so that
// another one can go on in the middle: a service manager's fd store. Names are
// never used twice while something has them.
type Keep struct {
	Put  func(name string, fd int) error
	Drop func(name string)
	// Prefix is what all names of the session begin with.
	Prefix string
}

const (
	keptConn    = "conn"
	keptJournal = "state"
)

// A keeper keeps one session. The order of its steps is what docs/restart.md
// argues from.
type keeper struct {
	Keep
	journal *journal
	lastID  uint64
	names   map[uint64]*foreign.FD // what is put and not dropped, by id

	// The message that is being acted on.
	pieces    []uint32
	reply     []byte // what a commit says is its answer: header and payload; empty for none
	committed bool   // what it changed has been committed already
}

// keepNew begins to keep the session. The connection comes last: without it a
// later process drops the rest.
func (s *Session) keepNew(k Keep) error {
	j, err := newJournal()
	if err != nil {
		return err
	}
	s.keep = &keeper{Keep: k, journal: j, names: map[uint64]*foreign.FD{}}
	if err := s.keepRecord(); err != nil {
		return err
	}
	if err := s.commit(); err != nil {
		return err
	}
	if err := k.Put(k.Prefix+keptJournal, j.file.Int()); err != nil {
		return err
	}
	return s.conn.control(func(fd uintptr) error { return k.Put(k.Prefix+keptConn, int(fd)) })
}

// put keeps a descriptor, under an id of its own; or under that of another one of the
// same open file, for systemd's store has no file twice, and forgets what it is given
// again under another name. Memory regions are often parts of one file.
func (s *Session) put(f *foreign.FD) error {
	k := s.keep
	if k == nil || f == nil {
		return nil
	}
	for id, have := range k.names {
		if f.IsSame(have) {
			f.SavedAs = id
			return nil
		}
	}
	f.SavedAs = k.newID()
	k.names[f.SavedAs] = f
	if err := k.Put(k.name(f.SavedAs), f.Int()); err != nil {
		return fmt.Errorf("keep a descriptor for who comes after this process: %w", err)
	}
	return nil
}

// newID is an id that no descriptor has, and never 0, which says that there is none. Ids
// begin anew behind the last one.
func (k *keeper) newID() uint64 {
	for {
		if k.lastID++; k.lastID != 0 && k.names[k.lastID] == nil {
			return k.lastID
		}
	}
}

// putAll keeps what came with a message, once it is known to be what the message is to
// have: what else there is must not get into a store, where it has to be closed as well.
func (s *Session) putAll(m *Message, sl slot) error {
	if s.keep == nil {
		return nil
	}
	if sl != noSlot {
		for _, f := range m.Files {
			if err := s.put(f); err != nil {
				return err
			}
		}
	}
	failpoint.Hit(failpoint.Put)
	return nil
}

func (k *keeper) name(id uint64) string { return k.Prefix + strconv.FormatUint(id, 10) }

// commit makes the state of now, and the answer to the message that is being
// acted on, what another process would go on from.
func (s *Session) commit() error {
	k := s.keep
	if k == nil {
		return nil
	}
	k.committed = true
	s.state.device, s.state.choices = s.dev.State()
	return k.journal.commit(s.encode(nil))
}

// tidy drops what the state that was committed last does not name.
func (s *Session) tidy() {
	k := s.keep
	used := map[uint64]*foreign.FD{}
	note := func(files ...*foreign.FD) {
		for _, f := range files {
			if f != nil {
				used[f.SavedAs] = f
			}
		}
	}
	note(s.record.File())
	for _, r := range s.regions {
		note(r.file)
	}
	for i := range s.rings {
		r := &s.rings[i]
		note(r.kick, r.call, r.err)
	}
	note(s.dirty.file, s.dirty.call, s.back.file())
	for id := range k.names {
		if f := used[id]; f != nil {
			k.names[id] = f // the one it was put for may be closed by now
			continue
		}
		delete(k.names, id)
		k.Drop(k.name(id))
	}
}

// forget drops everything: the session is over.
func (s *Session) forget() {
	k := s.keep
	k.Drop(k.Prefix + keptConn)
	k.Drop(k.Prefix + keptJournal)
	for id := range k.names {
		k.Drop(k.name(id))
	}
	clear(k.names)
}

// runKept is Run's loop for a session that is kept: a message stays in the
// socket until what it changed, and its answer, have been committed.
func (s *Session) runKept(m *Message) error {
	if s.keep == nil {
		if err := s.keepNew(*s.opt.Keep); err != nil {
			return err
		}
	} else if err := s.finishMessage(); err != nil { // of the process before
		return err
	}
	k := s.keep
	for {
		var err error
		if k.pieces, err = s.conn.peekRequest(m); err != nil {
			return err
		}
		s.heard(m.sender)
		if s.opt.Trace {
			s.log(LevelDebug, "%v", m)
		}
		failpoint.Hit(failpoint.Peeked)
		k.reply, k.committed = k.reply[:0], false
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
		s.tidy()
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
	k := s.keep
	if len(k.pieces) == 0 {
		return nil
	}
	if err := s.conn.control(func(fd uintptr) error { return k.journal.take(fd, k.pieces) }); err != nil {
		return err
	}
	failpoint.Hit(failpoint.Taken)
	for len(k.reply) > 0 {
		var sent bool
		err := s.conn.control(func(fd uintptr) (err error) {
			sent, err = k.journal.answer(fd, replyAt, len(k.reply), s.pass.Int())
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

// beforeStart commits before a ring starts: what its worker does can only be
// understood by who knows of the ring. The message counts as acted on then; if
// the ring does not start after all, another commit says so.
func (s *Session) beforeStart() error {
	if s.keep == nil || s.keep.committed {
		return nil
	}
	return s.commit()
}

// Suspend makes Run stop the queues and return, and leaves everything to whoever
// comes after this process: the front-end notices nothing. It is for sessions
// that are kept. Any goroutine may call it.
func (s *Session) Suspend() {
	s.suspended.Store(true)
	s.conn.interrupt() // a front-end may not read its answers either
}
