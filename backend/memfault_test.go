package backend

import (
	"runtime/debug"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// gonePage is a page of memory that is not there any more: its file has shrunk.
func gonePage(t *testing.T) []byte {
	t.Helper()
	fd, err := unix.MemfdCreate("gone", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Ftruncate(fd, pageBytes); err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(fd, 0, pageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
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
		"scatter": scatter(iov, 0, data), "gather": gather(data, iov, 0), "zeroes": zeroFrom(iov, 0),
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
	panics("a fault elsewhere", func() error { return scatter(good, 0, other[:64]) })
	panics("a fault elsewhere", func() error { return gather(other[:64], good, 0) })
	panics("an index out of range", func() error { return scatter(good, 0, make([]byte, 65)) })
	panics("a nil pointer", func() (err error) {
		defer faulted(&err, good)
		var nowhere *byte // the race detector lets nobody make a slice of it
		*nowhere = 1
		return nil
	})
}
