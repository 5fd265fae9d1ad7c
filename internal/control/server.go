package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
)

// maxClients is how many clients are served at a time. Others wait until one of
// them leaves, or its Patience ends.
const maxClients = 16

// A Server carries out requests on a disk, for any number of clients.
type Server struct {
	// Grow has the disk take in what its file has grown by, and tells the guest. It
	// is set before Serve; without it there is no Resize.
	Grow func() (from, to uint64, told bool, err error)

	// Borrow, where the disk is not always the same one, lends what there is until
	// done is called. It is set before Serve.
	Borrow func() (disk backend.Disk, done func())

	disk     backend.Disk
	note     func(string)
	patience time.Duration
	allowed  func(uid uint32) bool

	slots   chan struct{} // one for each client that may be served
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows
	clients map[*net.UnixConn]struct{}
	closed  bool
}

// NewServer makes a server of a disk, which it does not own. note is called from
// any goroutine, with a line for each thing that a client has changed, and when none
// can be let in.
func NewServer(disk backend.Disk, note func(string)) *Server {
	own := uint32(os.Geteuid())
	return &Server{
		disk:     disk,
		note:     note,
		patience: Patience,
		allowed:  func(uid uint32) bool { return uid == 0 || uid == own },
		slots:    make(chan struct{}, maxClients),
		clients:  map[*net.UnixConn]struct{}{},
	}
}

// Serve lets clients in through l until the server or l is closed. l stays the
// caller's.
func (s *Server) Serve(l *net.UnixListener) error {
	for {
		s.slots <- struct{}{}
		conn, err := Accept(l, func(err error) {
			s.note(fmt.Sprintf("the control socket lets nobody in at the moment: %v; it is tried again and again (raise the limit of open files, or look after the machine's memory)", err))
		})
		if err != nil {
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accepting a client of the control socket: %w", err)
		}
		if !s.enter(conn) {
			<-s.slots
			return conn.Close()
		}
		go func() {
			defer s.leave(conn)
			s.talk(conn)
		}()
	}
}

// enter notes a client, unless the server is closed.
func (s *Server) enter(conn *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.clients[conn] = struct{}{}
	s.running.Add(1)
	return true
}

func (s *Server) leave(conn *net.UnixConn) {
	s.mu.Lock()
	delete(s.clients, conn)
	s.mu.Unlock()
	_ = conn.Close() // it may be closed already
	<-s.slots
	s.running.Done()
}

// Close disconnects the clients and waits until what they asked for last has
// been carried out: the disk can be closed then.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for conn := range s.clients {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// talk serves one client until it leaves, keeps silent for too long or sends
// what is no line. Whatever it does costs this connection only.
func (s *Server) talk(conn *net.UnixConn) {
	if err := s.check(conn); err != nil {
		_ = s.say(conn, Answer{Error: err.Error()})
		return
	}
	lines := bufio.NewReaderSize(conn, MaxLine)
	for {
		if conn.SetReadDeadline(time.Now().Add(s.patience)) != nil {
			return
		}
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			_ = s.say(conn, Answer{Error: fmt.Sprintf("a request of more than %d bytes", MaxLine)})
			return
		case err != nil:
			return // it left, or was too slow
		}
		if s.say(conn, s.answer(line)) != nil {
			return
		}
	}
}

func (s *Server) say(conn *net.UnixConn, a Answer) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(s.patience)); err != nil {
		return err
	}
	_, err = conn.Write(append(b, '\n'))
	return err
}

// check says why the client must not be here: beside the socket's mode, it has
// to be root or the daemon's own user (SO_PEERCRED, unix(7)).
func (s *Server) check(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	switch {
	case cerr != nil || err != nil:
		return errors.Join(cerr, err)
	case !s.allowed(cred.Uid):
		return fmt.Errorf("user %d may not do this: be root or the user that zvhost runs as", cred.Uid)
	}
	return nil
}
