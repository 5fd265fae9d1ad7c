package foreign

import (
	"testing"

	"golang.org/x/sys/unix"
)

// dup(2) gives another descriptor of the same file, and nothing else does.
func TestIsSame(t *testing.T) {
	isSame := func(a, b int) bool { return (&FD{n: a}).IsSame(&FD{n: b}) }
	a, b := notifierFD(t), notifierFD(t)
	r, _ := blocking(t, "pipe")
	dup, err := NewFD(a).Dup()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dup.Close() }()
	again := dup.Int()
	if isSame(a, b) || isSame(a, r) || isSame(a, -1) || isSame(-1, -1) {
		t.Error("different files are the same")
	}
	_, err = unix.FcntlInt(uintptr(a), unix.F_DUPFD_QUERY, a)
	pid := uintptr(unix.Getpid())
	_, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, 0, uintptr(a), uintptr(a), 0)
	tells := err == nil || errno == 0 // the kernel
	if isSame(a, again) != tells || isSame(again, a) != tells {
		t.Error("a duplicate is another file")
	}
}
