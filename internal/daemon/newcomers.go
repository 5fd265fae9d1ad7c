package daemon

import (
	"net"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser"
)

// Front-ends that connect while another one is served.

const (
	// maxNewcomers is how many may wait side by side; more stay in the socket's backlog.
	maxNewcomers = 16
	// lookPeriod is how often the server looks whether one of them, or the front-end that they
	// wait for, has left.
	lookPeriod = 50 * time.Millisecond
)

// A newcomer is a front-end that waits for the one that is served to leave.
type newcomer struct {
	conn   *net.UnixConn
	who    string
	until  time.Time          // then it is refused, unless the other one is gone or within a message
	logged vhostuser.Presence // what it waits for, according to the log; Here: nothing is logged
}

// wait adds conn to the newcomers.
func (s *server) wait(conn *net.UnixConn) {
	s.waiting = append(s.waiting, newcomer{conn: conn, who: peerName(conn), until: time.Now().Add(s.handOver)})
}

// next is the newcomer that is served next, nil: none waits.
func (s *server) next() *net.UnixConn {
	for len(s.waiting) > 0 {
		n := s.waiting[0]
		s.waiting = s.waiting[1:]
		if !hungUp(n.conn) {
			return n.conn
		}
		s.dismiss(n)
	}
	return nil
}

// dismissAll closes the connections of all newcomers, at the end.
func (s *server) dismissAll() {
	for _, n := range s.waiting {
		_ = foreign.HangUp(n.conn, true)
	}
	s.waiting = nil
}

// dismiss closes the connection of a newcomer that has hung up, with whatever it has sent.
func (s *server) dismiss(n newcomer) {
	s.lines.Logf(logrus.DebugLevel, "front-end %s: left before it was served", n.who)
	_ = foreign.HangUp(n.conn, true)
}

// attend decides about the newcomers that wait for the front-end of session, who. If that is
// dead, its session ends at once, even if another process holds its connection open. If it
// has left, newcomers wait however long the disk takes for its requests in flight. If it is
// still there, a newcomer is refused by closing its connection, but only while the session
// waits for a message of which nothing has arrived: within a message it may be about to end.
func (s *server) attend(session session, who string) {
	presence := session.Presence()
	if presence == vhostuser.Left {
		session.GiveUp()
	}
	still := s.waiting[:0]
	for _, n := range s.waiting {
		switch {
		case hungUp(n.conn):
			s.dismiss(n)
			continue
		case presence == vhostuser.Dead:
			s.lines.Logf(logrus.WarnLevel, "front-end %s is dead, and something holds its connection open: its session ends for front-end %s", who, n.who)
			session.Supersede()
			presence = vhostuser.Left
		case presence == vhostuser.Here && !time.Now().Before(n.until):
			s.lines.Logf(logrus.WarnLevel, "front-end %s: refused, front-end %s is using the disk: end that one first, or start another zvhost with another disk", n.who, who)
			_ = foreign.HangUp(n.conn, true)
			continue
		case presence != n.logged && !time.Now().Before(n.until):
			format := "front-end %s waits: front-end %s is gone, and what it had in flight is finished first"
			if presence == vhostuser.Busy {
				format = "front-end %s waits: a message of front-end %s is not finished yet"
			}
			s.lines.Logf(logrus.InfoLevel, format, n.who, who)
			n.logged = presence
		}
		still = append(still, n)
	}
	clear(s.waiting[len(still):])
	s.waiting = still
}

// hungUp reports whether a connection's other end is closed.
func hungUp(conn *net.UnixConn) bool {
	p := [1]unix.PollFd{{Events: unix.POLLRDHUP}}
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	if raw.Control(func(fd uintptr) {
		p[0].Fd = int32(fd)
		_, err = unix.Poll(p[:], 0)
	}) != nil {
		return true
	}
	return err == nil && p[0].Revents != 0
}
