package foreign

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// FD owns one descriptor and closes it exactly once. A descriptor that came over a
// socket is in an FD from the moment it is in this process until it is closed. The
// holder of the *FD owns it until it passes it on. Plain ints are descriptors that are
// lent.
type FD struct {
	n int
	// SavedAs is the number under which the fd store of a service manager has the open
	// file, for the next process; 0: it does not have it.
	SavedAs uint64

	sent bool // by another process: closing it may take long
	kind Kind // of one that was sent, once Inspect has looked at it
}

// SentFD takes over descriptor n, which another process has sent.
func SentFD(n int) *FD {
	f := NewFD(n)
	f.sent = true
	return f
}

// NewFD takes over descriptor n. It panics when n is negative: that is no
// descriptor, and the caller's error check is missing.
func NewFD(n int) *FD {
	if n < 0 {
		panic(fmt.Sprintf("foreign: %d is no descriptor", n))
	}
	return &FD{n: n}
}

// Int lends the number out, until Close. It is -1 on a nil or closed FD.
func (f *FD) Int() int {
	if f == nil {
		return -1
	}
	return f.n
}

// Close closes the descriptor. On a nil or closed FD it does nothing. One that another
// process has sent is closed in the background. An error is that of close(2): the number
// is free all the same.
func (f *FD) Close() error {
	if f == nil || f.n < 0 {
		return nil
	}
	n := f.Release()
	if f.sent {
		CloseKind(n, f.kind)
		return nil
	}
	// Linux frees the number even when close reports an error, so it is never
	// tried again.
	return unix.Close(n)
}

// Release gives the descriptor up without closing it: the caller owns it.
func (f *FD) Release() int {
	n := f.n
	f.n = -1
	return n
}

// Dup is another descriptor of the same open file, saved under the same number. An error
// is that of fcntl(2): this process may have no more descriptors.
func (f *FD) Dup() (*FD, error) {
	n, err := unix.FcntlInt(uintptr(f.n), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &FD{n: n, SavedAs: f.SavedAs, sent: f.sent}, nil
}

// Number is SavedAs, and 0 on a nil FD.
func (f *FD) Number() uint64 {
	if f == nil {
		return 0
	}
	return f.SavedAs
}

// Inspect says which kind of file f is, as the function Inspect does, and remembers it for
// Close.
func (f *FD) Inspect() (kind Kind, what string) {
	f.kind, what = Inspect(f.n)
	return f.kind, what
}

// IsSame reports whether f and g are descriptors of one open file, as after dup(2)
// (F_DUPFD_QUERY, from Linux 6.10 on; kcmp(2), KCMP_FILE, which containers may
// forbid). On a kernel that has neither it is false.
func (f *FD) IsSame(g *FD) bool {
	if f.Int() < 0 || g.Int() < 0 {
		return false
	}
	if same, err := unix.FcntlInt(uintptr(f.n), unix.F_DUPFD_QUERY, g.n); err == nil {
		return same == 1
	}
	const kcmpFile = 0
	pid := uintptr(unix.Getpid())
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(f.n), uintptr(g.n), 0)
	return errno == 0 && order == 0
}
