package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// This file is about files that cannot be the disk that is asked for, in words that say
// what to do about it.

// ErrUnfit is what opening a disk returns, wrapped, when the file cannot be the disk that
// is asked for: it is no file, has another format or other blocks, or is too short. That
// stays so until somebody changes the file, or asks for something else.
var ErrUnfit = errors.New("the file cannot be this disk")

// An unfitError is an ErrUnfit with words of its own.
type unfitError struct{ err error }

func (e *unfitError) Error() string        { return e.err.Error() }
func (e *unfitError) Unwrap() error        { return e.err }
func (e *unfitError) Is(target error) bool { return target == ErrUnfit }

// Unfitf is an ErrUnfit with this text.
func Unfitf(format string, args ...any) error { return &unfitError{fmt.Errorf(format, args...)} }

// ErrDamaged is what opening an image returns, wrapped, when what stands in the file cannot
// be what zvhost has written. That stays so until somebody repairs the image, or puts
// another one in its place. That the file cannot be read is not damage: it may be the next time.
var ErrDamaged = errors.New("the image is damaged")

// A damagedError is an ErrDamaged with words of its own.
type damagedError struct{ err error }

func (e *damagedError) Error() string        { return e.err.Error() }
func (e *damagedError) Unwrap() error        { return e.err }
func (e *damagedError) Is(target error) bool { return target == ErrDamaged }

// Damagedf is an ErrDamaged with this text.
func Damagedf(format string, args ...any) error { return &damagedError{fmt.Errorf(format, args...)} }

// CannotOpen says why the file or device at path, which is called what, could not be
// opened: err is what open(2) has said.
func CannotOpen(what, path string, err error) error {
	var of *fs.PathError
	if errors.As(err, &of) {
		err = of.Err // its other words are the call, and the path once more
	}
	hint := ""
	switch {
	case path == "":
		return Unfitf("%s: the name of the file is empty", what)
	case errors.Is(err, ErrUnfit): // with a hint of its own
		return fmt.Errorf("%s %s: %w", what, path, err)
	case errors.Is(err, unix.ENOENT):
		hint = "see whether the name is right, or make an image with 'zvhost create'"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		hint = "run this as a user who may use it, or give this one the right to"
	case errors.Is(err, unix.EROFS):
		hint = "nothing can be written there; it can be used with --read-only"
	case errors.Is(err, unix.ELOOP):
		hint = "its symbolic links lead in a circle"
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		if st, serr := os.Stat(path); serr == nil && st.Mode()&os.ModeSocket != 0 {
			return NotADisk(path)
		}
		hint = "there is no device behind this name; see whether it is connected, and its driver loaded"
	default:
		return fmt.Errorf("%s %s: %w", what, path, err)
	}
	return fmt.Errorf("%s %s: %w: %s", what, path, err, hint)
}

// NotADisk refuses what no disk can stand in.
func NotADisk(path string) error {
	return Unfitf("%s is neither a file nor a block device: give an image, a file or a block device", path)
}

// CannotCreate says why no file could be made at path.
func CannotCreate(path string, err error) error {
	var of *fs.PathError
	if errors.As(err, &of) {
		err = of.Err
	}
	switch {
	case path == "":
		return Unfitf("create: the name of the file is empty")
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("create %s: %w: its directory is not there; make that first", path, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("create %s: %w: run this as a user who may write into its directory", path, err)
	}
	return fmt.Errorf("create %s: %w", path, err)
}

// CauseOf is err without the request that it is about.
func CauseOf(err error) error {
	var r *RequestError
	if errors.As(err, &r) {
		return r.Err
	}
	return err
}
