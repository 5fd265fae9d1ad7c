package vhostuser

import (
	"fmt"

	"github.com/zvhost/zvhost/internal/foreign"
)

// The kinds that the descriptors of a message must have. Others are refused before any use,
// because they could make the session, a worker or the garbage collector wait for as long as
// the front-end likes.

// slot is what a message's descriptors are for.
type slot uint8

const (
	noSlot       slot = iota
	notifierSlot      // to be written or read when something happened: an eventfd
	memorySlot        // to be mapped
	socketSlot        // for messages of the back-end's own
	stateSlot         // for the device's state
)

// wants reports whether a kind fits a slot, and what to send instead.
func (s slot) wants(k foreign.Kind) (good bool, remedy string) {
	switch s {
	case notifierSlot:
		// Pipes are for platforms without eventfds ("Support for platforms other than
		// Linux"). One that is full, or whose lock a process holds, can block both ends.
		return k == foreign.Eventfd, "it has to be an eventfd"
	case memorySlot:
		// Also of a front-end with userfaultfd: that is of its own mapping, and does not
		// stop accesses to this one.
		return k == foreign.Memory, "memory has to be a memfd, or a regular file of tmpfs, hugetlbfs or a local file system that is mounted here (QEMU: memory-backend-memfd, or memory-backend-file with mem-path=/dev/shm)"
	case socketSlot:
		return k == foreign.UnixStream, "it has to be a UNIX stream socket"
	case stateSlot:
		return k == foreign.Pipe || k == foreign.UnixStream, "it has to be a pipe or a UNIX stream socket"
	}
	return true, ""
}

// check returns an error if the kind of f does not fit the slot. nil means no descriptor, and
// fits.
func (s slot) check(f *foreign.FD) error {
	_, err := s.inspect(f)
	return err
}

// inspect is check, and returns the kind of f.
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
