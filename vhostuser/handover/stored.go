package handover

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// Stored is what an fd store has given back to this process: descriptors by name.
type Stored map[string]*foreign.FD

// Of splits off what belongs to the prefix.
func (k Stored) Of(prefix string) Stored {
	mine := Stored{}
	for name, f := range k {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			mine[rest] = f
			delete(k, name)
		}
	}
	return mine
}

// ErrNothingStored says that there is no session to resume: the one of the previous process
// had ended, or had not begun yet.
var ErrNothingStored = errors.New("no session was stored")

// An UnfitError says that this process cannot go on with a session, but another one
// can: of another version, started with other options, or later. All is left in the
// store.
type UnfitError struct{ Err error }

func (e UnfitError) Error() string {
	return e.Err.Error() + "; the session is left as it is: start what can go on with it, or stop the service, or the keeper, to give it up"
}

// UnfitOr is err, as an UnfitError where it is for want of what a process may have
// later: descriptors or memory.
func UnfitOr(err error) error {
	for _, e := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN} {
		if errors.Is(err, e) {
			return UnfitError{Err: err}
		}
	}
	return err
}

// GiveUp closes what the session does not go on with because of err, and drops it from
// the store, but where another process can go on with it.
func (k Stored) GiveUp(store Store, err error) {
	if !errors.As(err, new(UnfitError)) {
		k.Drop(store)
	}
	for _, f := range k {
		_ = f.Close()
	}
}

// Drop closes all of k, and drops it from the store.
func (k Stored) Drop(store Store) {
	for name, f := range k {
		store.Drop(store.Prefix + name)
		_ = f.Close()
	}
}
