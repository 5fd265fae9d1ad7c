package bench

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// dial connects to a back-end, or returns the reason in one line.
func dial(path string) (*frontend.Client, error) {
	client, err := frontend.Dial(path)
	if err == nil {
		return client, nil
	}
	if st, serr := os.Stat(path); serr == nil && st.Mode().Type() != os.ModeSocket {
		return nil, errors.New("not a socket: give the path that the back-end listens on (serve --socket-path); to measure a file itself, give it as --blk-file")
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return nil, err
	}
	hint := ""
	switch errno {
	case unix.ENOENT:
		hint = ": start the back-end first, such as zvhost serve with the same --socket-path"
	case unix.ECONNREFUSED:
		hint = ": no process listens there any more: start the back-end again"
	case unix.EACCES:
		hint = ": run this as a user who may connect (serve --socket-mode and --socket-group say who)"
	case unix.EAGAIN:
		hint = ": too many front-ends wait there already: the back-end accepts none"
	case unix.EPROTOTYPE:
		hint = ": not a stream socket, which vhost-user needs"
	case unix.EINVAL:
		hint = fmt.Sprintf(": the path has %d bytes, more than a socket's can have", len(path))
	}
	return nil, fmt.Errorf("%w%s", errno, hint)
}
