package control

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// acceptPause is how long a connecting client waits if the daemon has no descriptor or
// memory for it.
const acceptPause = 100 * time.Millisecond

// Accept waits for the next connection of l. A lack of descriptors or memory is temporary
// and must not end the listener: it is logged once, and Accept tries again.
func Accept(l *net.UnixListener, tell func(error)) (*net.UnixConn, error) {
	for told := false; ; {
		conn, err := l.AcceptUnix()
		switch {
		case errors.Is(err, unix.ECONNABORTED): // the client disconnected before it was accepted
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
