package vhostuser

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How a connection waits for its other end, and for how long. Between two messages it
// waits for ever. A message that has begun, and an answer, have a time limit each: what is in
// a socket's queue may hold that very connection open, if a front-end has sent its own end
// along, so it must be read or dropped at some time.

// MessageLimit is how long a front-end may take for a message from its first byte or
// descriptor on, and for taking an answer. Front-ends send a message with one system
// call, and wait for its answer.
const MessageLimit = 2 * time.Second

var (
	errHalfMessage = fmt.Errorf("only a part of a message came within %v", MessageLimit)
	errNotTaken    = fmt.Errorf("the front-end has not taken an answer within %v", MessageLimit)
	errOutOfBand   = errors.New("out-of-band data came, of which the protocol has none")
)

// deadlines are those of a connection: one for reads and one for writes that a timer
// brings about, and one for both for good.
type deadlines struct {
	mu   sync.Mutex
	over bool // interrupt was called: there is no way back
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// interrupt ends what waits, and all that would. Any goroutine may call it.
func (c *Conn) interrupt() {
	c.deadlines.mu.Lock()
	defer c.deadlines.mu.Unlock()
	c.deadlines.over = true
	_ = c.uc.SetDeadline(past) // a connection that is closed waits for nothing
}

// expire has a wait for reading, or writing, end after limit. rescind takes that back.
func (c *Conn) expire(set func(time.Time) error, limit time.Duration) (rescind func()) {
	t := time.AfterFunc(limit, func() { _ = set(past) })
	return func() {
		if t.Stop() {
			return
		}
		c.deadlines.mu.Lock()
		defer c.deadlines.mu.Unlock()
		if !c.deadlines.over {
			_ = set(time.Time{})
		}
	}
}

func (c *Conn) interrupted() bool {
	c.deadlines.mu.Lock()
	defer c.deadlines.mu.Unlock()
	return c.deadlines.over
}

// recv reads what is there into b, at most, and waits for it. What came along is
// m's. n is 0 where the other end has hung up. begun says that it is of a message that
// has begun.
func (c *Conn) recv(m *Message, b []byte, flags int, begun bool) (n int, err error) {
	raw, err := c.uc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var oobn, got int
	look := func(fd uintptr) (done bool) {
		c.idle.Store(false) // before it is read, so that there is no moment at which it is nowhere
		for {
			if hasOutOfBand(fd) {
				err = errOutOfBand
				return true
			}
			n, oobn, got, _, err = unix.Recvmsg(int(fd), b, c.oob, flags|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	}
	rerr := raw.Read(func(fd uintptr) bool {
		done := look(fd)
		if !done && !begun {
			c.idle.Store(true)
		} else if !done && c.limit > 0 && c.rescind == nil {
			c.rescind = c.expire(c.uc.SetReadDeadline, c.limit)
		}
		return done
	})
	if errors.Is(rerr, os.ErrDeadlineExceeded) && c.rescind != nil && !c.interrupted() {
		// This process may have been late, and not the other end.
		rerr = raw.Control(func(fd uintptr) {
			if !look(fd) {
				err = errHalfMessage
			}
		})
	}
	if rerr != nil {
		return 0, rerr
	} else if err != nil {
		return 0, err
	}
	if oobn > 0 {
		if err := m.receive(c.oob[:oobn]); err != nil {
			return 0, err
		}
	}
	// It says also that there was no room for a sender's credentials, but there is.
	if got&unix.MSG_CTRUNC != 0 {
		return 0, errors.New("descriptors were lost: this process may have no more open (raise its limit of open files)")
	}
	return n, nil
}

// whole ends the time limit of the message that was read, or was not.
func (c *Conn) whole() {
	if c.rescind != nil {
		c.rescind()
		c.rescind = nil
	}
}

// hasOutOfBand reports whether out-of-band data waits in the socket. It is looked for before the
// queue is read, which takes it for part of a message.
func hasOutOfBand(fd uintptr) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	n, err := unix.Poll(p[:], 0)
	return err == nil && n > 0 && p[0].Revents&unix.POLLPRI != 0
}

// gone reports whether the other end has hung up.
func (c *Conn) gone() bool { return c.shows(unix.POLLRDHUP) }

// busy reports whether a message has begun and is not yet answered: whether there is any in
// the socket, or this end does anything but wait for one. It is true from the first byte or
// descriptor on, without a gap, and for good after an error. Any goroutine may call it.
func (c *Conn) busy() bool {
	// In this order: what is read in between has this end no longer idle.
	return c.shows(unix.POLLIN|unix.POLLPRI) || !c.idle.Load()
}

// shows reports whether the socket shows any of these events, or an error, now.
func (c *Conn) shows(events int16) bool {
	p := [1]unix.PollFd{{Events: events}}
	err := c.control(func(fd uintptr) error {
		p[0].Fd = int32(fd)
		_, err := unix.Poll(p[:], 0)
		return err
	})
	return err == nil && p[0].Revents != 0
}

// control runs f on the connection's descriptor, unless it is closed.
func (c *Conn) control(f func(fd uintptr) error) error {
	raw, err := c.uc.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = f(fd) })
	if cerr != nil {
		return cerr
	}
	return err
}

// waitWritable waits until the socket takes an answer, for as long as an answer may take.
func (c *Conn) waitWritable() error {
	raw, err := c.uc.SyscallConn()
	if err != nil {
		return err
	}
	writable := func(fd uintptr) bool {
		// The runtime wakes up for what changes from here on, and the socket may have
		// become writable before: nothing would change any more.
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p[:], 0)
		return n > 0 || err != nil && err != unix.EINTR
	}
	if c.limit > 0 {
		defer c.expire(c.uc.SetWriteDeadline, c.limit)()
	}
	return c.notTaken(raw.Write(writable), func() bool {
		ok := false
		_ = raw.Control(func(fd uintptr) { ok = writable(fd) })
		return ok
	})
}

// notTaken decides what the end of a wait for room in the socket means. late looks once more.
func (c *Conn) notTaken(err error, late func() bool) error {
	switch {
	case !errors.Is(err, os.ErrDeadlineExceeded) || c.limit == 0 || c.interrupted():
		return err
	case late():
		return nil
	}
	return errNotTaken
}
