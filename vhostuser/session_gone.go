package vhostuser

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// How the session detects that a front-end is gone, even if its connection stays open.
//
// A connection ends when the last process that has its other end closes it. That may be
// another process than the front-end: a child that has inherited it, or one that it was
// passed to. And the process that has connected need not be the front-end: management
// software may connect and pass the socket on. So the front-end is the process that has
// sent the last message, as the kernel reports it (SO_PASSCRED). Its death does not end the
// session by itself, but the next front-end that connects takes its place.

// A sender is the process that has sent the last message.
type sender struct {
	mu   sync.Mutex
	pid  int32
	fd   *foreign.FD // pidfd; nil: not known, or dead
	dead bool        // it was dead when it was looked for
}

// passCredentials has the kernel report the sender of each message.
func (s *Session) passCredentials() {
	// If it fails, no front-end is taken for dead.
	_ = s.conn.control(func(fd uintptr) error {
		return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	})
}

// noteSender notes who has sent a message; 0: it is not known.
func (s *Session) noteSender(pid int32) {
	p := &s.sender
	if pid <= 0 || pid == p.pid { // only this goroutine changes it
		return
	}
	// A number that was given to another process meanwhile makes a dead one look alive,
	// which is the safe mistake. The process that has connected is known without one.
	fd, err := -1, error(nil)
	if cred, fderr := s.connector(); cred == pid && fderr >= 0 {
		fd = fderr
	} else if fd, err = unix.PidfdOpen(int(pid), 0); fderr >= 0 {
		_ = unix.Close(fderr)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.fd.Close()
	p.pid, p.fd, p.dead = pid, nil, err == unix.ESRCH
	if err == nil {
		p.fd = foreign.NewFD(fd)
	}
}

// connector is the process that has connected, and a pidfd of it (SO_PEERPIDFD, from Linux
// 6.5 on), or -1.
func (s *Session) connector() (pid int32, fd int) {
	fd = -1
	_ = s.conn.control(func(sock uintptr) error {
		cred, err := unix.GetsockoptUcred(int(sock), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return err
		}
		pid = cred.Pid
		if n, err := unix.GetsockoptInt(int(sock), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
			fd = n
		}
		return nil
	})
	return pid, fd
}

func (p *sender) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd == nil {
		return p.dead
	}
	poll := [1]unix.PollFd{{Fd: int32(p.fd.Int()), Events: unix.POLLIN}}
	n, err := unix.Poll(poll[:], 0)
	return err == nil && n > 0
}

func (p *sender) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.fd.Close()
	p.fd = nil
}

// Presence is what is known of a session's front-end.
type Presence uint8

// What may be known of it.
const (
	Here Presence = iota // as far as is known
	Busy                 // a message has begun, is acted on, or is being answered, or that has just failed and the session is about to end
	Left                 // it has hung up, or the session ends: Run returns once what is in flight is answered
	Dead                 // the process is, while its connection is held open: Supersede would end the session
)

// Presence reports whether the front-end is still there. Any goroutine may call it. Between
// Busy and Left it never returns Here: a session that ends over a message is never idle again.
func (s *Session) Presence() Presence {
	switch {
	case s.ending.Load(), s.closed.Load(), s.conn.gone():
		return Left
	case s.sender.isDead():
		return Dead
	case s.conn.busy():
		return Busy
	}
	return Here
}

// deathPeriod is how often the session looks whether a front-end that has hung up is dead: its
// connection is closed a moment before (exit_files and exit_notify in the kernel's
// kernel/exit.c).
const deathPeriod = 10 * time.Millisecond

// abandon notifies the device that the front-end is dead, unless the session is over.
func (s *Session) abandon(dead bool) {
	s.deathMu.Lock()
	defer s.deathMu.Unlock()
	if !s.over {
		s.dev.Abandon(dead)
	}
	s.over = s.over || !dead
}

// watchDeath notifies the device when the front-end is dead, while the session ends.
func (s *Session) watchDeath() (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		look := time.NewTicker(deathPeriod)
		defer look.Stop()
		for !s.sender.isDead() {
			select {
			case <-ended:
				return
			case <-look.C:
			}
		}
		s.abandon(true)
	}()
	return func() {
		close(ended)
		<-done
		s.abandon(false)
	}
}

// GiveUp drops the requests of a dead front-end that have not begun, if its session still acts
// on a message. Any goroutine may call it.
func (s *Session) GiveUp() {
	if s.sender.isDead() {
		s.abandon(true)
	}
}

// Supersede ends the session of a dead front-end, as Close does, for the next one.
func (s *Session) Supersede() {
	s.superseded.Store(true)
	s.abandon(true)
	s.Close()
}

// checkBack returns an error if a socket is not fit for messages of the back-end. It must not
// hold other descriptors open, above all not the session's own connection: a front-end could
// send its end of that, or a socket with that in its queue, and the session would never end.
// So nothing can arrive through it any more, and nothing may have arrived.
func (s *Session) checkBack(fd int) error {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if domain != unix.AF_UNIX || typ != unix.SOCK_STREAM {
		return fmt.Errorf("its descriptor is no UNIX stream socket (domain %d, type %d)", domain, typ)
	}
	switch peer, err := unix.Getpeername(fd); peer := peer.(type) {
	case *unix.SockaddrUnix:
		if peer.Name != "" && peer.Name != "@" { // which is what package unix calls none
			return fmt.Errorf("its descriptor is a connection to %q: send one end of a socketpair", peer.Name)
		}
	default:
		return fmt.Errorf("its descriptor is a socket that is not connected (%v)", err)
	}
	if err := unix.Shutdown(fd, unix.SHUT_RD); err != nil {
		return fmt.Errorf("its descriptor: %w", err)
	}
	own := s.conn.control(func(conn uintptr) error {
		_, err := unix.SendmsgN(int(conn), nil, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return err
	})
	if own == unix.EPIPE { // the answers of the session would go to what was shut down
		return errOwnEnd
	}
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return fmt.Errorf("its descriptor: %w", err)
	}
	if n > 0 || hasOutOfBand(uintptr(fd)) {
		return fmt.Errorf("its descriptor is a socket in which something waits to be read (%d bytes): send a new one", n)
	}
	return nil
}

// errOwnEnd: a front-end has sent its own end of the session, which ends, since no process
// could read an answer.
var errOwnEnd = fmt.Errorf("its descriptor is the front-end's own end of this session, which would never end")
