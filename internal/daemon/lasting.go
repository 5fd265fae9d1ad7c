package daemon

import (
	"errors"
	"io/fs"
	"os/user"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
)

// A startError is the reason why a daemon does not begin to serve.
type startError struct {
	err error
	// guestWaits: a guest may wait for the next process. What the previous one has left in the
	// fd store is lost when the service manager gives up.
	guestWaits bool
	// mayAppear: the file is a device, which may still appear.
	mayAppear bool
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// A lastingError persists until an operator changes the command line or the machine.
type lastingError struct{ err error }

func (e *lastingError) Error() string { return e.err.Error() }
func (e *lastingError) Unwrap() error { return e.err }

func lasting(err error) error { return &lastingError{err} }

// Lasting reports whether a daemon that is started again in the same way would fail with
// err until an operator removes the cause: a file is missing or has other permissions, it
// has another format, is no disk or is damaged, an option does not fit it, there is no such
// group. It is false for errors that may disappear by themselves (a
// disk in use or that cannot be read, a full file system, no memory, a device that is not
// there yet), for a daemon that had begun to serve, and while a guest waits for its session to be resumed.
func Lasting(err error) bool {
	var start *startError
	if !errors.As(err, &start) || start.guestWaits {
		return false
	}
	if start.mayAppear && errors.Is(err, fs.ErrNotExist) {
		return false
	}
	for _, t := range []error{fs.ErrNotExist, unix.EACCES, unix.EPERM, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EFBIG, unix.EROFS, unix.ENOSYS, image.ErrNotImage, disk.ErrUnfit, disk.ErrDamaged} {
		if errors.Is(err, t) {
			return true
		}
	}
	var group user.UnknownGroupError
	var last *lastingError
	return errors.As(err, &group) || errors.As(err, &last)
}

// startFailed wraps err in a startError, unless the daemon of c has begun to serve.
func (h *passedOn) startFailed(c *Config, err error) error {
	if err == nil || h.serving {
		return err
	}
	path, aerr := filepath.Abs(c.BlkFile)
	return &startError{err: err, guestWaits: h.guestWaits, mayAppear: aerr == nil && strings.HasPrefix(path, "/dev/")}
}
