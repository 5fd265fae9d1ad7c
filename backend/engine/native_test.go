package engine

import (
	"bytes"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where the kernel takes nothing, and nothing is in flight that would end a sleep,
// what is staged is tried again. Here polls of a pipe fill the context.
func TestNativeRefused(t *testing.T) {
	r := newRig(t, KindNative.Open)
	n := r.Engine.(*Native)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	const iocbPoll = 5
	c := iocb{opcode: iocbPoll, fd: uint32(pipe[0]), buf: unix.POLLIN}
	one := &c
	polls := 0
	for errno := unix.Errno(0); ; polls++ {
		if _, _, errno = unix.Syscall(unix.SYS_IO_SUBMIT, n.ctx, 1, uintptr(unsafe.Pointer(&one))); errno == unix.EAGAIN {
			break
		} else if errno != 0 {
			t.Fatal(errno)
		}
	}

	f := newFile(t, t.TempDir())
	data := random(512)
	op := &Op{Code: Writev, FD: int(f.Fd()), Len: 512, Iov: iovecs(data)}
	r.Queue(op)
	r.Submit()
	if r.Reap() != nil {
		t.Fatal("the context is full, but an Op is done")
	}
	r.Wait(r.woken[:]) // does not sleep for ever

	if _, err := unix.Write(pipe[1], data[:1]); err != nil {
		t.Fatal(err)
	}
	for polls > 0 {
		got, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, n.ctx, 1, depth, uintptr(unsafe.Pointer(&n.events)), 0, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		polls -= int(got)
	}
	if got := r.next(); got != op || op.Err != nil {
		t.Fatalf("%v", op.Err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("not written: %v", err)
	}
}
