package iovec

import (
	"bytes"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// split returns vectors over data, with empty ones among them unless whole is true.
func split(r *rand.Rand, data []byte, whole bool) (iov []unix.Iovec) {
	for len(data) > 0 {
		n := 1 + r.IntN(min(len(data), 9))
		if !whole && r.IntN(4) == 0 {
			n = 0
		}
		iov = append(iov, unix.Iovec{Base: unsafe.SliceData(data), Len: uint64(n)})
		data = data[n:]
	}
	return iov
}

func joined(iov []unix.Iovec) (all []byte) {
	for _, v := range iov {
		all = append(all, Bytes(v)...)
	}
	return all
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Every function does to vectors, however the bytes are split over them, what a slice
// expression, copy or clear does to the bytes.
func TestLikeASlice(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		data := random(r, 1+r.IntN(60))
		iov, n := split(r, data, false), r.IntN(len(data)+1)
		was := slices.Clone(iov)
		if got := joined(AppendHead(nil, iov, uint64(n))); !bytes.Equal(got, data[:n]) {
			t.Fatalf("the first %d bytes of %x are %x", n, data, got)
		}
		if got := joined(AppendHead(nil, iov, uint64(len(data)+3))); !bytes.Equal(got, data) {
			t.Fatalf("more than all of %x is %x", data, got)
		}
		if got := joined(AppendTail(nil, iov, uint64(n))); !bytes.Equal(got, data[n:]) {
			t.Fatalf("%x without %d bytes is %x", data, n, got)
		}
		if !slices.Equal(iov, was) {
			t.Fatal("the vectors have changed")
		}
		if got := joined(Advance(slices.Clone(iov), uint64(n))); !bytes.Equal(got, data[n:]) {
			t.Fatalf("%x, %d bytes on, is %x", data, n, got)
		}
		head, last := CutLast(split(r, data, true))
		if !bytes.Equal(joined(head), data[:len(data)-1]) || last != &data[len(data)-1] {
			t.Fatalf("%x without its last byte is %x", data, joined(head))
		}

		part := random(r, r.IntN(len(data)-n+1))
		want := slices.Clone(data)
		copy(want[n:], part)
		if err := Scatter(iov, uint64(n), part); err != nil || !bytes.Equal(data, want) {
			t.Fatalf("%d bytes at %d: %x, want %x (%v)", len(part), n, data, want, err)
		}
		got := make([]byte, len(part))
		if err := Gather(got, iov, uint64(n)); err != nil || !bytes.Equal(got, part) {
			t.Fatalf("%x is read back as %x (%v)", part, got, err)
		}
		clear(want[n:])
		if err := Zero(iov, uint64(n)); err != nil || !bytes.Equal(data, want) {
			t.Fatalf("zeroes from %d on: %x (%v)", n, data, err)
		}
	}
}

// A Cursor reads and writes what comes next, and Rest is what then is left.
func TestCursor(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		data := random(r, 1+r.IntN(60))
		want := slices.Clone(data)
		c, at := Cursor{Iov: split(r, data, true)}, 0
		for range r.IntN(5) {
			b := random(r, r.IntN(20))
			if r.IntN(2) == 0 {
				n := c.Write(b)
				if n != min(len(b), len(data)-at) {
					t.Fatalf("%d bytes of %d were written where there are %d", n, len(b), len(data)-at)
				}
				at += copy(want[at:], b)
				continue
			}
			ok := c.Read(b)
			if ok != (len(b) <= len(data)-at) {
				t.Fatalf("%d bytes are read where there are %d: %v", len(b), len(data)-at, ok)
			}
			if !ok {
				at = len(data)
				break
			}
			if !bytes.Equal(b, want[at:at+len(b)]) {
				t.Fatalf("at %d: %x, want %x", at, b, want[at:])
			}
			at += len(b)
		}
		if !bytes.Equal(data, want) || !bytes.Equal(joined(c.Rest()), want[at:]) {
			t.Fatalf("%x with %x left, want %x with %x", data, joined(c.Iov), want, want[at:])
		}
	}
}

// gonePage is a page of memory that is not there any more: its file has shrunk.
func gonePage(t *testing.T) []byte {
	t.Helper()
	fd, err := unix.MemfdCreate("gone", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Ftruncate(fd, 4096); err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	if err := unix.Ftruncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// A fault on the memory of a request is its error; one elsewhere, and a bug, are not
// taken for that.
func TestOnlyFaultsOnTheRequestsMemoryAreErrors(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	gone, other := gonePage(t), gonePage(t)
	iov := []unix.Iovec{{Base: &gone[100], Len: 64}}
	data := make([]byte, 64)
	for name, err := range map[string]error{
		"scatter": Scatter(iov, 0, data), "gather": Gather(data, iov, 0), "zeroes": Zero(iov, 0),
	} {
		if err != unix.EFAULT {
			t.Errorf("%s: %v", name, err)
		}
	}
	panics := func(name string, f func() error) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s is taken for a fault on the request's memory", name)
			}
		}()
		_ = f()
	}
	good := []unix.Iovec{{Base: unsafe.SliceData(make([]byte, 64)), Len: 64}}
	panics("a fault elsewhere", func() error { return Scatter(good, 0, other[:64]) })
	panics("a fault elsewhere", func() error { return Gather(other[:64], good, 0) })
	panics("an index out of range", func() error { return Scatter(good, 0, make([]byte, 65)) })
	panics("a nil pointer", func() (err error) {
		defer faulted(&err, good)
		var nowhere *byte // the race detector lets nobody make a slice of it
		*nowhere = 1
		return nil
	})
}
