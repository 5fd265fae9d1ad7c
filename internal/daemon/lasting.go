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

// A startError is why a daemon has not begun to serve.
type startError struct {
	err error
	// held says that a guest may wait for the next process: what the one before left in
	// the fd store goes away with a service manager that gives up.
	held bool
	// comes says that the file may still come: it is a device.
	comes bool
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// A lastingError is one that stays until somebody changes the command line or the machine.
type lastingError struct{ err error }

func (e *lastingError) Error() string { return e.err.Error() }
func (e *lastingError) Unwrap() error { return e.err }

func lasting(err error) error { return &lastingError{err} }

// Lasting says that a daemon that is started once more, in the same way, would fail for
// the reason that err says until an operator does something about it: a file is missing or
// has other permissions, it has another format, is no disk or is damaged, an option does
// not fit it, there is no such group. It is false for all that may get better by itself (a
// disk in use or that cannot be read, a full file system, no memory, a device that is not
// there yet), for a daemon that had begun to serve, and while a guest waits for one to go on.
func Lasting(err error) bool {
	var start *startError
	if !errors.As(err, &start) || start.held {
		return false
	}
	if start.comes && errors.Is(err, fs.ErrNotExist) {
		return false
	}
	for _, t := range []error{fs.ErrNotExist, unix.EACCES, unix.EPERM, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EROFS, unix.ENOSYS, image.ErrNotImage, disk.ErrUnfit, disk.ErrDamaged} {
		if errors.Is(err, t) {
			return true
		}
	}
	var group user.UnknownGroupError
	var last *lastingError
	return errors.As(err, &group) || errors.As(err, &last)
}

// notBegun makes of err what keeps the daemon of c from serving, until it does.
func (h *handed) notBegun(c *Config, err error) error {
	if err == nil || h.begun {
		return err
	}
	path, aerr := filepath.Abs(c.BlkFile)
	return &startError{err: err, held: h.held, comes: aerr == nil && strings.HasPrefix(path, "/dev/")}
}
