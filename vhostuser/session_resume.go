package vhostuser

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/handover"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// How a session of the previous process is resumed.

// ResumeSession resumes the session that the previous process has persisted under
// opt.Store.Prefix. stored are its descriptors, by their names without the prefix. It takes
// them over in any case. If the session cannot be resumed it drops them from the store,
// unless the error is an UnfitError. It may start queues; Run must be called.
func ResumeSession(stored handover.Stored, dev transport.Device, opt Options) (*Session, error) {
	store := *opt.Store
	conn := stored[handover.ConnName]
	if conn == nil {
		stored.Drop(store)
		return nil, handover.ErrNothingStored
	}
	uc, err := unixConn(conn)
	if err != nil {
		err = handover.UnfitOr(fmt.Errorf("resume the connection of the previous process: %w", err))
		stored.GiveUp(store, err)
		return nil, err
	}
	delete(stored, handover.ConnName)
	file := stored[handover.JournalName]
	if file == nil {
		// It had just begun: nothing was taken from the socket.
		stored.Drop(store)
		return NewSession(uc, dev, opt), nil
	}
	delete(stored, handover.JournalName)
	s := NewSession(uc, dev, opt)
	s.saver = handover.NewSaver(store, nil)
	if err := s.rebuild(file, stored); err != nil {
		err = handover.UnfitOr(fmt.Errorf("resume the session of the previous process: %w", err))
		if errors.As(err, new(handover.UnfitError)) && s.conn.gone() {
			err = fmt.Errorf("its front-end is gone (%v)", err) // no front-end waits for a process that fits
		}
		s.suspended.Store(errors.As(err, new(handover.UnfitError)))
		stored.GiveUp(store, err)
		s.end()
		return nil, err
	}
	stored.Drop(store) // descriptors of a message that was not committed
	return s, nil
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
		return nil, errors.Join(errors.New("what was stored as a connection is none"), c.Close())
	}
	return uc, nil
}

// rebuild rebuilds the session from its journal and stored, from which it takes what it uses.
func (s *Session) rebuild(file *foreign.FD, stored handover.Stored) error {
	j, b, err := handover.OpenJournal(file)
	if err != nil {
		return err
	}
	s.saver.Journal = j
	if err := s.decode(b, stored); err != nil {
		return err
	}
	if err := s.resumeDevice(); err != nil {
		return handover.UnfitError{Err: err}
	}
	s.saver.Committed = true
	s.dev.Adopt(s.record)
	s.loggedFeatures = s.state.featuresSet
	if s.logging() {
		// Without these marks a machine that moves would lose what was written.
		if err := guestmem.Guard(s.markAll, s.dirty.log); err != nil {
			return fmt.Errorf("the dirty log: %w", err)
		}
	}
	return s.resumeSaved()
}

// resumeDevice makes the device what the driver was shown, and what it has taken.
func (s *Session) resumeDevice() error {
	var refused error
	if st := &s.state; st.featuresSet {
		if extra := st.features &^ s.offered(); extra != 0 {
			return fmt.Errorf("its driver has accepted features %s, which are not offered any more: start zvhost with the same disk and options", s.featureWords(extra))
		}
		if refused = s.dev.SetFeatures(st.features &^ ownFeatures); st.refused {
			refused = nil // as it did before
		}
	}
	// Another disk may refuse them, too: the error about the disk is the clearer one.
	if err := s.dev.Restore(s.state.device, s.state.choices); err != nil {
		return err
	}
	if n := int(s.state.shown); n != 0 {
		s.dev.ShowQueues(min(n, len(s.rings)))
	}
	return refused
}

// markAll marks all memory in the dirty log: the previous process may have died between a
// write and its mark.
func (s *Session) markAll() error {
	for i := range s.state.numRegions {
		d := &s.state.regions[i]
		s.dirty.log.Mark(d.GuestAddr, d.Size)
	}
	return nil
}
