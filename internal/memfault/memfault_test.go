package memfault

import (
	"errors"
	"os"
	"runtime/debug"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The address of a fault is known, and no other panic is taken for one.
func TestAddr(t *testing.T) {
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, page, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	recovered := func(f func()) (v any) {
		defer func() { v = recover() }()
		f()
		return nil
	}
	addr, ok := Addr(recovered(func() { b[100] = 1 }))
	if !ok || !In(b[100:101], addr) || In(nil, addr) || In(b[:0], addr) {
		t.Errorf("the fault is at %#x (%v), the byte at %p", addr, ok, &b[:101][100])
	}
	if InRange(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), page), 1, addr) {
		t.Error("the fault is taken for one in the next page")
	}
	for name, f := range map[string]func(){
		"an error":              func() { panic(errors.New("wrong")) },
		"an index out of range": func() { i := len(b); b[i] = 0 },
	} {
		if _, ok := Addr(recovered(f)); ok {
			t.Errorf("%s is taken for a fault", name)
		}
	}
}
