package uring

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The layouts are the kernel's: include/uapi/linux/io_uring.h.
func TestLayout(t *testing.T) {
	for name, c := range map[string]struct{ got, want uintptr }{
		"struct io_uring_params": {unsafe.Sizeof(params{}), 120},
		"io_uring_params.sq_off": {unsafe.Offsetof(params{}.sq), 40},
		"io_uring_params.cq_off": {unsafe.Offsetof(params{}.cq), 80},
		"struct io_uring_sqe":    {unsafe.Sizeof(SQE{}), 64},
		"io_uring_sqe.rw_flags":  {unsafe.Offsetof(SQE{}.RWFlags), 28},
		"io_uring_sqe.user_data": {unsafe.Offsetof(SQE{}.UserData), 32},
		"struct io_uring_cqe":    {unsafe.Sizeof(CQE{}), 16},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
}

func newRing(t *testing.T, entries int) *Ring {
	t.Helper()
	runtime.LockOSThread()
	r, err := New(entries)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
	return r
}

// Reads, many times around both
// queues, as full as they get.
func TestReads(t *testing.T) {
	const blocks, size = 8, 512
	want := make([]byte, blocks*size)
	for i := range want {
		want[i] = byte(i / size * 31)
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := newRing(t, blocks)
	got := make([]byte, len(want))
	for round := range 100 {
		clear(got)
		for i := range r.Entries() {
			s := r.SQE()
			if s == nil {
				t.Fatalf("round %d: no entry %d of %d", round, i, r.Entries())
			}
			s.Opcode, s.FD, s.Off, s.UserData = OpRead, int32(f.Fd()), uint64(i*size), uint64(i)
			s.Addr, s.Len = uint64(uintptr(unsafe.Pointer(&got[i*size]))), size
		}
		if r.SQE() != nil || r.Staged() != blocks {
			t.Fatalf("round %d: %d staged, and still room", round, r.Staged())
		}
		seen := 0
		for n := 0; n < blocks; {
			if err := r.Enter(1); err != nil && err != unix.EINTR {
				t.Fatal(err)
			}
			for c, ok := r.Next(); ok; c, ok = r.Next() {
				n++
				seen |= 1 << c.UserData
				if c.Res != size {
					t.Errorf("round %d, block %d: %d", round, c.UserData, c.Res)
				}
			}
		}
		if seen != 1<<blocks-1 || !bytes.Equal(got, want) {
			t.Fatalf("round %d: completions %b, data equal %v", round, seen, bytes.Equal(got, want))
		}
	}
}

// An error of one entry is its own; the others of the batch go on.
func TestErrorsAreEach(t *testing.T) {
	r := newRing(t, 4)
	var b [1]byte
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	for i, fd := range []int{1 << 20, int(zero.Fd())} {
		s := r.SQE()
		s.Opcode, s.FD, s.UserData = OpRead, int32(fd), uint64(i)
		s.Addr, s.Len = uint64(uintptr(unsafe.Pointer(&b[0]))), 1
	}
	if err := r.Enter(2); err != nil {
		t.Fatal(err)
	}
	res := map[uint64]int32{}
	for c, ok := r.Next(); ok; c, ok = r.Next() {
		res[c.UserData] = c.Res
	}
	if len(res) != 2 || res[0] != -int32(unix.EBADF) || res[1] != 1 {
		t.Errorf("%v", res)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, entries := range []int{0, 1 << 20} {
		if r, err := New(entries); err == nil {
			t.Errorf("a ring of %d entries: %d", entries, r.Entries())
			_ = r.Close()
		}
	}
}
