package vhostuser

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// How a session that another process has kept is gone on with.

// Kept is what a fd store has given back: descriptors by name.
type Kept map[string]*foreign.FD

// Of splits off what belongs to the prefix.
func (k Kept) Of(prefix string) Kept {
	mine := Kept{}
	for name, f := range k {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			mine[rest] = f
			delete(k, name)
		}
	}
	return mine
}

// ErrNothingKept says that there is no session to go on with: the one before had
// ended, or not yet begun.
var ErrNothingKept = errors.New("no session was kept")

// An UnfitError says that this process cannot go on with a session, but another one
// can: of another version, started with other options, or later. All is left in the
// store.
type UnfitError struct{ Err error }

func (e UnfitError) Error() string {
	return e.Err.Error() + "; the session is left as it is: start what can go on with it, or stop the service, or the keeper, to give it up"
}

// unfitOr is err, as an UnfitError where it is for want of what a process may have
// later: descriptors or memory.
func unfitOr(err error) error {
	for _, e := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN} {
		if errors.Is(err, e) {
			return UnfitError{Err: err}
		}
	}
	return err
}

// ResumeSession goes on with the session that another process has kept under
// keep.Prefix, of which kept are the descriptors, without the prefix. They are
// taken over in any case, and dropped from the store when the session cannot go
// on, but after an UnfitError. It may start queues; Run must be called.
func ResumeSession(kept Kept, dev Device, opt Options) (*Session, error) {
	k := *opt.Keep
	conn := kept[keptConn]
	if conn == nil {
		kept.drop(k)
		return nil, ErrNothingKept
	}
	uc, err := unixConn(conn)
	if err != nil {
		err = unfitOr(fmt.Errorf("go on with the connection of the process before: %w", err))
		kept.end(k, err)
		return nil, err
	}
	delete(kept, keptConn)
	file := kept[keptJournal]
	if file == nil {
		// It had just begun: nothing was taken from the socket.
		kept.drop(k)
		return NewSession(uc, dev, opt), nil
	}
	delete(kept, keptJournal)
	s := NewSession(uc, dev, opt)
	s.keep = &keeper{Keep: k, names: map[uint64]*foreign.FD{}}
	if err := s.pickUp(file, kept); err != nil {
		err = unfitOr(fmt.Errorf("go on with the session of the process before: %w", err))
		if errors.As(err, new(UnfitError)) && s.conn.gone() {
			err = fmt.Errorf("its front-end is gone (%v)", err) // nobody waits for a process that fits
		}
		s.suspended.Store(errors.As(err, new(UnfitError)))
		kept.end(k, err)
		s.end()
		return nil, err
	}
	kept.drop(k) // what is of a message that nobody has acted on
	return s, nil
}

// end closes what the session does not go on with because of err, and drops it from
// the store, but where another process can go on with it.
func (k Kept) end(keep Keep, err error) {
	if !errors.As(err, new(UnfitError)) {
		k.drop(keep)
	}
	for _, f := range k {
		_ = f.Close()
	}
}

// drop closes all of k, and drops it from the store.
func (k Kept) drop(keep Keep) {
	for name, f := range k {
		keep.Drop(keep.Prefix + name)
		_ = f.Close()
	}
}

// unixConn makes a connection of a descriptor, which is closed.
func unixConn(f *foreign.FD) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(f.Release()), "session")
	defer func() { _ = file.Close() }()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("what was kept as a connection is none"), c.Close())
	}
	return uc, nil
}

// pickUp rebuilds the session from its journal and kept, from which it takes what
// it uses.
func (s *Session) pickUp(file *foreign.FD, kept Kept) error {
	j, b, err := openJournal(file)
	if err != nil {
		return err
	}
	s.keep.journal = j
	if err := s.decode(b, kept); err != nil {
		return err
	}
	if err := s.resumeDevice(); err != nil {
		return UnfitError{Err: err}
	}
	s.keep.committed = true
	s.dev.Adopt(s.record)
	s.greeted = s.state.featuresSet
	if s.logging() {
		// Without these marks a machine that moves would lose what was written.
		if err := guestmem.Guard(s.markAll, s.dirty.log); err != nil {
			return fmt.Errorf("the dirty log: %w", err)
		}
	}
	return s.resumeKept()
}

// resumeDevice makes the device what the driver was shown, and what it has taken.
func (s *Session) resumeDevice() error {
	var refused error
	if st := &s.state; st.featuresSet {
		if extra := st.features &^ s.offered(); extra != 0 {
			return fmt.Errorf("its driver has taken features %s, which are not offered any more: start zvhost with the same disk and options", s.featureWords(extra))
		}
		if refused = s.dev.SetFeatures(st.features &^ ownFeatures); st.refused {
			refused = nil // as it did before
		}
	}
	// A disk that is another one may refuse them, too: that is said first.
	if err := s.dev.Restore(s.state.device, s.state.choices); err != nil {
		return err
	}
	if n := int(s.state.shown); n != 0 {
		s.dev.ShowQueues(min(n, len(s.rings)))
	}
	return refused
}

// markAll marks all memory in the dirty log: the process before may have died between a
// write and its mark.
func (s *Session) markAll() error {
	for i := range s.state.numRegions {
		d := &s.state.regions[i]
		s.dirty.log.Mark(d.GuestAddr, d.Size)
	}
	return nil
}
