package vhostuser

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// FD owns one descriptor and closes it exactly once. A descriptor that came
// over the socket is in an FD from the moment it is in this process until it
// is closed; whoever holds the *FD owns it, and handing it on means not keeping
// it. Plain ints are descriptors that are lent.
type FD struct {
	n  int
	id uint64 // what it is kept as beyond this process (Keep); 0: it is not

	sent bool         // by another process: closing it may take long
	kind foreign.Kind // of one that was sent, once it was looked at
}

// SentFD takes over descriptor n, which another process has sent (package foreign).
func SentFD(n int) *FD {
	f := NewFD(n)
	f.sent = true
	return f
}

// NewFD takes over descriptor n. It panics when n is negative: that is no
// descriptor, and the caller's error check is missing.
func NewFD(n int) *FD {
	if n < 0 {
		panic(fmt.Sprintf("vhostuser: %d is no descriptor", n))
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
// process has sent is closed in time, and not waited for.
func (f *FD) Close() error {
	if f == nil || f.n < 0 {
		return nil
	}
	n := f.n
	f.n = -1
	if f.sent {
		foreign.CloseKind(n, f.kind)
		return nil
	}
	// Linux frees the number even when close reports an error, so it is never
	// tried again.
	return unix.Close(n)
}

// isSame says whether f and g are descriptors of one open file, as after dup(2)
// (F_DUPFD_QUERY, from Linux 6.10 on; kcmp(2), KCMP_FILE, which containers may
// forbid). A kernel that cannot tell says no.
func (f *FD) isSame(g *FD) bool {
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
