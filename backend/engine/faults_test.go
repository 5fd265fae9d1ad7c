package engine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Reads past the end and writes that do not fit end with what was moved and why
// it was not all.
func TestShortTransfers(t *testing.T) { onEach(t, testShortTransfers) }

func testShortTransfers(t *testing.T, r *rig) {
	f := newFile(t, memoryDir(t))
	fd := int(f.Fd())
	data := random(3000)
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	for _, sizes := range [][]int{nil, {7}, {512}} {
		got := make([]byte, 4096)
		op := &Op{Code: Readv, FD: fd, Off: 1000, Len: 4096, Iov: iovecs(got, sizes...)}
		if err := r.do(op); err != io.ErrUnexpectedEOF || op.N != 2000 || !bytes.Equal(got[:2000], data[1000:]) {
			t.Errorf("read past the end: %d bytes, %v", op.N, err)
		}
	}

	// A limit on the file's size cuts a write short; the rest is then refused.
	// It is the process's, so it is put back at once.
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limited := func(limit uint64, op *Op) error {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
				t.Fatal(err)
			}
		}()
		return r.do(op)
	}
	for _, sizes := range [][]int{nil, {100}, {1}} {
		op := &Op{Code: Writev, FD: fd, Off: 3000, Len: 4096, Iov: iovecs(random(4096), sizes...)}
		if err := limited(5000, op); err != unix.EFBIG || op.N != 2000 {
			t.Errorf("write past the limit: %d bytes, %v", op.N, err)
		}
	}
	op := &Op{Code: Writev, FD: fd, Off: 3000, Len: 4096, Iov: iovecs(random(4096))}
	if err := r.do(op); err != nil || op.N != 4096 {
		t.Errorf("the same Op once there is room: %d bytes, %v", op.N, err)
	}
}

func TestErrors(t *testing.T) { onEach(t, testErrors) }

func testErrors(t *testing.T, r *rig) {
	f := newFile(t, t.TempDir())
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	fd := int(f.Fd())
	data := make([]byte, 512)
	// Not unmapped: somebody else could get its place.
	gone, err := unix.Mmap(-1, 0, 4096, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(gone) }()
	lost := iovecs(gone)
	for name, c := range map[string]struct {
		op   Op
		want error
	}{
		"disk full":          {Op{Code: Writev, FD: int(full.Fd()), Len: 512, Iov: iovecs(data)}, unix.ENOSPC},
		"closed file":        {Op{Code: Readv, FD: 1 << 20, Len: 512, Iov: iovecs(data)}, unix.EBADF},
		"sync of it":         {Op{Code: Fdatasync, FD: 1 << 20}, unix.EBADF},
		"hole in it":         {Op{Code: PunchHole, FD: 1 << 20, Len: 512}, unix.EBADF},
		"zeroes in it":       {Op{Code: ZeroRange, FD: 1 << 20, Len: 512}, unix.EBADF},
		"memory taken away":  {Op{Code: Writev, FD: fd, Len: 4096, Iov: lost}, unix.EFAULT},
		"fewer vectors":      {Op{Code: Writev, FD: fd, Len: 1024, Iov: iovecs(data)}, unix.EINVAL},
		"no such operation":  {Op{Code: 200, FD: fd}, unix.EINVAL},
		"nothing to be read": {Op{Code: Readv, FD: fd, Off: 1 << 40, Len: 512, Iov: iovecs(data)}, io.ErrUnexpectedEOF},
	} {
		if _, isNative := r.Engine.(*Native); isNative && c.want == unix.ENOSPC {
			c.want = unix.EINVAL // linux-aio knows no character devices
		}
		if err := r.do(&c.op); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// Both ways of making zeroes, also where the file system has only one of them.
func TestZeroes(t *testing.T) { onEach(t, testZeroes) }

func testZeroes(t *testing.T, r *rig) {
	for name, dir := range map[string]string{"disk": t.TempDir(), "memory": memoryDir(t)} {
		for _, code := range []Code{PunchHole, ZeroRange} {
			f := newFile(t, dir)
			const size = 1 << 20
			want := random(size)
			if _, err := f.WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			for _, at := range [][2]int64{{0, 512}, {1000, 3}, {4096, 8192}, {5000, 600_000}, {size - 1, 1}} {
				op := &Op{Code: code, FD: int(f.Fd()), Off: at[0], Len: at[1]}
				if err := r.do(op); err != nil || op.N != at[1] {
					t.Fatalf("%s, %d: %d bytes, %v", name, code, op.N, err)
				}
				clear(want[at[0]:][:at[1]])
			}
			got, err := os.ReadFile(f.Name())
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d: not what has to be there: %v", name, code, err)
			}
			// Past the end: there is nothing, and the file does not grow.
			op := &Op{Code: PunchHole, FD: int(f.Fd()), Off: size, Len: 4096}
			if err := r.do(op); err != nil {
				t.Error(err)
			}
			if st, err := f.Stat(); err != nil || st.Size() != size {
				t.Errorf("%s: the file has %d bytes, %v", name, st.Size(), err)
			}
		}
	}
}
