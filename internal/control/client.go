package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxAnswer is the longest answer that a client accepts, in bytes: a list of
// backend.MaxFaults faults is about half of it.
const maxAnswer = 1 << 20

// Call sends one request to the daemon behind the control socket at path and returns its
// answer. An error of the daemon is returned as the error. Setting zones waits for writes
// in flight, so it has no time limit.
func Call(path string, r Request) (a Answer, err error) {
	if path == "" {
		return a, errors.New("the name of the control socket is empty: give a daemon's --control-path")
	}
	// Connecting to a file that is not a socket fails with the same error as to a dead
	// socket.
	if st, err := os.Stat(path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return a, fmt.Errorf("%s is no socket: give a daemon's --control-path", path)
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return a, fmt.Errorf("the control socket %s: %w", path, reason(err))
	}
	defer func() { _ = conn.Close() }() // nothing is lost with it
	line, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	if len(line)+1 > MaxLine {
		return a, fmt.Errorf("too much for one request: %d bytes, at most %d; do it in several", len(line)+1, MaxLine)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(Patience)); err != nil {
		return a, err
	}
	// A daemon that refuses the client answers with the reason, and reads nothing.
	if _, err := conn.Write(append(line, '\n')); err != nil && !errors.Is(err, unix.EPIPE) {
		return a, fmt.Errorf("the control socket %s: %w", path, reason(err))
	}
	text, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		return a, fmt.Errorf("the control socket %s: closed without an answer: is it the daemon's --control-path, and is the daemon still running?", path)
	case err != nil:
		return a, fmt.Errorf("the control socket %s: %w", path, reason(err))
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, fmt.Errorf("the control socket %s: not an answer: %w", path, err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// reason is the useful part of a net error, whose text repeats the address.
func reason(err error) error {
	var errno unix.Errno
	switch {
	case !errors.As(err, &errno):
		return err
	case errno == unix.ECONNREFUSED:
		return fmt.Errorf("%w: the daemon that made it is gone", errno)
	case errno == unix.EACCES:
		return fmt.Errorf("%w: run this as root, or as the daemon's user", errno)
	case errno == unix.ENOENT:
		return fmt.Errorf("%w: give a daemon's --control-path", errno)
	}
	return errno
}
