package vhostuser

import (
	"fmt"

	"github.com/zvhost/zvhost/internal/foreign"
)

// What the descriptors of a message have to be. Whatever else comes is refused before
// anybody touches it, because it could make the session, a worker or the garbage
// collector wait for as long as the front-end likes.

// slot is what a message's descriptors are for.
type slot uint8

const (
	noSlot       slot = iota
	notifierSlot      // to be written or read when something happened: an eventfd
	memorySlot        // to be mapped
	socketSlot        // for messages of the back-end's own
	stateSlot         // for the device's state
)

// wants says which kinds are good for a slot, and what to tell who has sent another.
func (s slot) wants(k foreign.Kind) (good bool, remedy string) {
	switch s {
	case notifierSlot:
		// Pipes are for platforms without eventfds ("Support for platforms other than
		// Linux"). One that is full, or whose lock somebody holds, can block both ends.
		return k == foreign.Eventfd, "it has to be an eventfd"
	case memorySlot:
		// Also of a front-end with userfaultfd: that is of its own mapping, and does not
		// stop those who touch ours.
		return k == foreign.Memory, "memory has to be a memfd, or a regular file of tmpfs, hugetlbfs or a local file system that is mounted here (QEMU: memory-backend-memfd, or memory-backend-file with mem-path=/dev/shm)"
	case socketSlot:
		return k == foreign.UnixStream, "it has to be a UNIX stream socket"
	case stateSlot:
		return k == foreign.Pipe || k == foreign.UnixStream, "it has to be a pipe or a UNIX stream socket"
	}
	return true, ""
}

// check looks at f, and returns an error where it is not what the slot is for. nil stands
// for no descriptor, and is good.
func (s slot) check(f *foreign.FD) error {
	_, err := s.inspect(f)
	return err
}

// inspect is check that says which kind f is.
func (s slot) inspect(f *foreign.FD) (foreign.Kind, error) {
	if f == nil || s == noSlot {
		return 0, nil
	}
	kind, what := f.Inspect()
	if good, remedy := s.wants(kind); !good {
		return kind, fmt.Errorf("its descriptor is %s: %s", what, remedy)
	}
	return kind, nil
}
