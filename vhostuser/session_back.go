package vhostuser

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// BackRequest is the number of a message that the back-end sends by itself, over
// a socket of its own ("Back-end message types").
type BackRequest uint32

// The messages that a back-end may send.
const (
	BackIOTLBMsg BackRequest = iota + 1
	BackConfigChange
	BackVringHostNotifier
	BackVringCall
	BackVringErr
	BackSharedObjectAdd
	BackSharedObjectRemove
	BackSharedObjectLookup
	BackShmemMap
	BackShmemUnmap
)

// A backChannel is the way of messages that the back-end sends by itself
// ("Back-end communication"). They may come from any goroutine.
type backChannel struct {
	mu     sync.Mutex
	socket *foreign.FD // nil: the front-end has given none
	config bool        // the front-end wants to be notified of changes of its configuration space
}

// setBackendReqFD takes the socket.
func (s *Session) setBackendReqFD(m *Message) ([]byte, error) {
	if err := s.checkBack(m.Files[0].Int()); err != nil {
		return nil, err
	}
	s.closeBack()
	s.back.set(m.Take(0), s.state.protocol)
	s.state.backNew = true
	return nil, nil
}

func (b *backChannel) set(socket *foreign.FD, protocol uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.socket, b.config = socket, protocol&ProtocolConfig != 0
}

// file is the socket, nil for none.
func (b *backChannel) file() *foreign.FD {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.socket
}

// number is the number under which the socket is saved, see FD.Number.
func (b *backChannel) number() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.socket.Number()
}

// configChanged notifies the front-end that the configuration space has changed
// (CONFIG_CHANGE_MSG), and reports whether it could: the front-end then reads the space, and
// notifies the guest. Any goroutine may call it; it does not wait. It asks for no answer,
// which would contain nothing.
func (s *Session) configChanged() (notified bool) {
	b := &s.back
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket == nil || !b.config {
		return false
	}
	wire := Header{Request(BackConfigChange), Version, 0}.Append(nil)
	n, err := unix.SendmsgN(b.socket.Int(), wire, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	switch {
	case err == unix.EAGAIN:
		return true // earlier notifications are unread, and one suffices
	case err != nil || n != len(wire):
		// The stream ends within a message, or no process reads it. The session's goroutine
		// closes the descriptor.
		_ = unix.Shutdown(b.socket.Int(), unix.SHUT_RDWR)
		b.config = false
		return false
	}
	return true
}

// closeBack closes the socket.
func (s *Session) closeBack() {
	s.back.mu.Lock()
	defer s.back.mu.Unlock()
	s.drop(&s.back.socket)
}
