package bench

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	vfiofront "github.com/zvhost/zvhost/vfiouser/frontend"
	vhostfront "github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/blkclient"
)

// A door is a connection to a back-end, whichever protocol it speaks.
type door interface {
	Interrupt()
	PeerPID() (int, error)
	// open makes a disk of it, which owns it.
	open(o blkclient.Options) (*blkclient.Disk, error)
}

type vhostUser struct{ *vhostfront.Client }

func (c vhostUser) open(o blkclient.Options) (*blkclient.Disk, error) {
	return vhostfront.OpenDisk(c.Client, o)
}

type vfioUser struct{ *vfiofront.Client }

func (c vfioUser) open(o blkclient.Options) (*blkclient.Disk, error) {
	return vfiofront.OpenDisk(c.Client, o)
}

// dial connects to a back-end, or returns the reason in one line.
func dial(c *Config) (door, error) {
	if c.VFIOUser != "" {
		client, err := vfiofront.Dial(c.VFIOUser)
		if err != nil {
			return nil, fmt.Errorf("--vfio-user=%s: %w", c.VFIOUser, hint(c.VFIOUser, "--vfio-user", err))
		}
		client.Timeout = c.Timeout
		return vfioUser{client}, nil
	}
	client, err := vhostfront.Dial(c.SocketPath)
	if err != nil {
		return nil, fmt.Errorf("--socket-path=%s: %w", c.SocketPath, hint(c.SocketPath, "--socket-path", err))
	}
	client.Timeout = c.Timeout
	return vhostUser{client}, nil
}

// hint says why there is no connection to path, and what to do about it.
func hint(path, flag string, err error) error {
	if st, serr := os.Stat(path); serr == nil && st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("not a socket: give the path that the back-end listens on (serve %s); to measure a file itself, give it as --blk-file", flag)
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	advice := ""
	switch errno {
	case unix.ENOENT:
		advice = ": start the back-end first, such as zvhost serve with the same " + flag
	case unix.ECONNREFUSED:
		advice = ": no process listens there any more: start the back-end again"
	case unix.EACCES:
		advice = ": run this as a user who may connect (serve --socket-mode and --socket-group say who)"
	case unix.EAGAIN:
		advice = ": too many front-ends wait there already: the back-end accepts none"
	case unix.EPROTOTYPE:
		advice = ": not a stream socket, which the protocol needs"
	case unix.EINVAL:
		advice = fmt.Sprintf(": the path has %d bytes, more than a socket's can have", len(path))
	}
	return fmt.Errorf("%w%s", errno, advice)
}
