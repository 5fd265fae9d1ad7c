package control

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// acceptPause is how long whoever wants in is left to wait where there is nothing to
// take him in with.
const acceptPause = 100 * time.Millisecond

// Accept waits for the next connection of l. Want of descriptors or memory passes, and
// must not end who listens: it is told of once, and tried again.
func Accept(l *net.UnixListener, tell func(error)) (*net.UnixConn, error) {
	for told := false; ; {
		conn, err := l.AcceptUnix()
		switch {
		case errors.Is(err, unix.ECONNABORTED): // it left before it was let in
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			if !told {
				tell(err)
				told = true
			}
			time.Sleep(acceptPause)
		default:
			return conn, err
		}
	}
}
