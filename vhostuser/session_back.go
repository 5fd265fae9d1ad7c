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
	config bool        // it wants to hear of its configuration space
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

// configChanged tells the front-end that the configuration space has another
// content (CONFIG_CHANGE_MSG), and says whether it could: the front-end reads it
// then, and passes the news on to the guest. Any goroutine may call it; it does not
// wait. No answer is asked for, for it would have nothing to say.
func (s *Session) configChanged() (told bool) {
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
		return true // it has not read those before yet, and one is as good as two
	case err != nil || n != len(wire):
		// What stands in the stream is no message any more, or nobody reads it. The
		// descriptor is the session's goroutine's to close.
		_ = unix.Shutdown(b.socket.Int(), unix.SHUT_RDWR)
		b.config = false
		return false
	}
	return true
}

// closeBack gives the socket back.
func (s *Session) closeBack() {
	s.back.mu.Lock()
	defer s.back.mu.Unlock()
	s.drop(&s.back.socket)
}
