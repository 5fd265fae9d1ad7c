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

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/foreign"
)

// maxClients is how many clients are served at a time. One more waits until one of them
// leaves or has been silent for the server's grace: the one that has been silent for
// longest is disconnected then.
const maxClients = 64

// silentGrace is how long a client may be silent if another one waits for its place.
const silentGrace = time.Second

// A Server carries out requests on a disk, for any number of clients.
type Server struct {
	// Grow extends the disk to the size of its file, and notifies the guest. It is set
	// before Serve; without it Resize fails.
	Grow func() (from, to uint64, told bool, err error)

	// Borrow, if the disk can be replaced, returns the present one, which is not replaced
	// before done is called. It is set before Serve.
	Borrow func() (dk disk.Disk, done func())

	disk     disk.Disk
	note     func(string)
	patience time.Duration
	grace    time.Duration // silentGrace, but in tests
	allowed  func(uid uint32) bool

	running sync.WaitGroup

	mu      sync.Mutex // guards what follows
	changed *sync.Cond // a client has disconnected, or is silent from now on, or the server is closed
	clients map[*net.UnixConn]*client
	closed  bool
}

// A client is what is known of one that is connected.
type client struct {
	busy   bool      // its request is being carried out
	silent time.Time // since when it is not
}

// NewServer makes a server of a disk, which it does not own. note is called from any
// goroutine, with a line for each change by a client, and if no client can be accepted.
func NewServer(dk disk.Disk, note func(string)) *Server {
	own := uint32(os.Geteuid())
	s := &Server{
		disk:     dk,
		note:     note,
		patience: Patience,
		grace:    silentGrace,
		allowed:  func(uid uint32) bool { return uid == 0 || uid == own },
		clients:  map[*net.UnixConn]*client{},
	}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// Serve accepts clients from l until the server or l is closed. The caller closes l.
func (s *Server) Serve(l *net.UnixListener) error {
	for {
		conn, err := Accept(l, func(err error) {
			s.note(fmt.Sprintf("the control socket lets nobody in at the moment: %v; it is tried again and again (raise the limit of open files, or look after the machine's memory)", err))
		})
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accepting a client of the control socket: %w", err)
		}
		if !s.enter(conn) {
			return foreign.HangUp(conn, true)
		}
		go func() {
			defer s.leave(conn)
			s.talk(conn)
		}()
	}
}

// enter registers a client once there is room for it, unless the server is closed.
func (s *Server) enter(conn *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.clients) >= maxClients && !s.closed {
		most, wait := s.mostSilent()
		if most != nil && wait <= 0 {
			delete(s.clients, most)
			_ = foreign.HangUp(most, true)
			continue
		}
		var look *time.Timer
		if most != nil {
			look = time.AfterFunc(wait, s.changed.Signal)
		}
		s.changed.Wait()
		if look != nil {
			look.Stop()
		}
	}
	if s.closed {
		return false
	}
	s.clients[conn] = &client{silent: time.Now()}
	s.running.Add(1)
	return true
}

// mostSilent is the client that has been silent for longest, and how long it may still
// be; nil: none is silent. mu is held.
func (s *Server) mostSilent() (most *net.UnixConn, wait time.Duration) {
	for conn, c := range s.clients {
		if !c.busy && (most == nil || c.silent.Before(s.clients[most].silent)) && !hasInput(conn) {
			most = conn
		}
	}
	if most != nil {
		wait = s.grace - time.Since(s.clients[most].silent)
	}
	return most, wait
}

// hasInput reports whether a client has sent data that its goroutine has not read yet.
func hasInput(conn *net.UnixConn) bool {
	n := 0
	raw, err := conn.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	}
	return n > 0
}

// setBusy records whether a client's request is being carried out. It returns false if the
// client has been disconnected meanwhile.
func (s *Server) setBusy(conn *net.UnixConn, busy bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[conn]
	if c == nil {
		return false
	}
	c.busy, c.silent = busy, time.Now()
	s.changed.Signal()
	return true
}

func (s *Server) leave(conn *net.UnixConn) {
	s.mu.Lock()
	delete(s.clients, conn)
	s.changed.Signal()
	s.mu.Unlock()
	_ = foreign.HangUp(conn, true) // it may be closed already
	s.running.Done()
}

// Close disconnects the clients and waits until their last requests have been carried out:
// then the disk can be closed.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.changed.Signal()
	for conn := range s.clients {
		_ = foreign.HangUp(conn, true)
	}
	s.mu.Unlock()
	s.running.Wait()
}

// talk serves one client until it disconnects, is silent for too long or sends an invalid
// line. Errors affect this connection only.
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
			return // it disconnected, or was too slow
		}
		if !s.setBusy(conn, true) {
			return
		}
		a := s.answer(line)
		if !s.setBusy(conn, false) || s.say(conn, a) != nil {
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

// check returns why the client is refused: in addition to the socket's mode, it must be
// root or the daemon's own user (SO_PEERCRED, unix(7)).
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
