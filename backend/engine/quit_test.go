package engine

import (
	"os"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A read that is to quit is not carried out by any engine; writes, and reads that are not,
// are.
func TestQuit(t *testing.T) {
	for _, kind := range Kinds {
		for _, dir := range []string{t.TempDir(), "/dev/shm"} { // on a disk perhaps, and in memory
			f, err := os.CreateTemp(dir, "quit")
			if err != nil {
				t.Fatal(err)
			}
			_ = os.Remove(f.Name())
			if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
				t.Fatal(err)
			}
			wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
			if err != nil {
				t.Fatal(err)
			}
			e, err := kind.Open(func() { _, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
			if err != nil {
				t.Fatal(err)
			}
			var yes, no atomic.Bool
			yes.Store(true)
			ops := make([]*Op, 6)
			for i := range ops {
				buf := make([]byte, 512)
				ops[i] = &Op{Code: Readv, FD: int(f.Fd()), Off: int64(i) * 512, Len: 512, Iov: []unix.Iovec{{Base: unsafe.SliceData(buf), Len: 512}}}
				switch i % 3 {
				case 0:
					ops[i].Quit = &yes
				case 1:
					ops[i].Code, ops[i].Quit = Writev, &yes
				case 2:
					ops[i].Quit = &no
				}
				e.Queue(ops[i])
			}
			e.Submit()
			for n := 0; n < len(ops); {
				if e.Reap() != nil {
					n++
					continue
				}
				e.Wait([]unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}})
				_, _ = unix.Read(wake, make([]byte, 8))
			}
			for i, op := range ops {
				if quit := i%3 == 0; quit != (op.Err == ErrQuit) || !quit && op.Err != nil {
					t.Errorf("%s: op %d: %v", kind, i, op.Err)
				}
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
			_, _ = f.Close(), unix.Close(wake)
		}
	}
}

// Much data goes to the kernel in several system calls, so that what quits meanwhile is not
// moved: one call would move all that the page cache has.
func TestMuchIsNotSubmittedAtOnce(t *testing.T) {
	f := newFile(t, t.TempDir())
	if err := f.Truncate(mostAtOnce); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, KindUring.Open)
	u := r.Engine.(*Uring)
	buf := make([]byte, mostAtOnce)
	ops := make([]Op, 4)
	before := u.ring.Calls()
	for i := range ops {
		ops[i] = Op{Code: Readv, FD: int(f.Fd()), Len: mostAtOnce, Iov: iovecs(buf)}
		r.Queue(&ops[i])
	}
	r.Submit()
	if calls := u.ring.Calls() - before; calls < 4 {
		t.Errorf("%d system calls for 4 reads of %d bytes", calls, mostAtOnce)
	}
	for range ops {
		r.next()
	}
}
