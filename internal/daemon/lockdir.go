package daemon

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
)

// lockPatience is how long a daemon that starts waits for the lock of the socket's
// directory. Another daemon holds it for some milliseconds; but everybody who can read
// the directory can lock it, and for as long as they like.
const lockPatience = 5 * time.Second

// lockDir holds other daemons off the directory for a moment, so that two that
// start at once do not each remove the other's socket. It waits for up to patience. A
// directory that cannot be opened is left to bind to complain about.
func lockDir(dir, option string, patience time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("the socket's directory %s: %w: create it, or choose another %s", dir, errnoOf(err), option)
	}
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil // and the lock goes with it
		case err == unix.EINTR:
		case err != unix.EWOULDBLOCK:
			_ = f.Close()
			return nil, fmt.Errorf("locking the socket's directory %s: %w", dir, err)
		case time.Now().After(end):
			err = fmt.Errorf("the socket's directory %s has been locked (flock) for %v by %s: end that, or choose another %s", dir, patience, disk.LockHolder(f), option)
			_ = f.Close()
			return nil, err
		}
	}
}
