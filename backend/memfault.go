package backend

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// faulted makes EFAULT, what a system call would say, of a fault on the memory of iov,
// which a front-end can take away. It is to be deferred, in a goroutine that has
// debug.SetPanicOnFault on. Any other panic is a bug and goes on.
func faulted(err *error, iov []unix.Iovec) {
	v := recover()
	if v == nil {
		return
	}
	addr, ok := faultAddr(v)
	for i := range iov {
		if ok && holds(unsafe.Pointer(iov[i].Base), uintptr(iov[i].Len), addr) {
			*err = unix.EFAULT
			return
		}
	}
	panic(v)
}

// faultAddr is where memory was not there, if v, which was recovered, says that.
func faultAddr(v any) (addr uintptr, ok bool) {
	fault, ok := v.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok {
		return 0, false
	}
	return fault.Addr(), true
}

// holds says whether addr lies in the n bytes at base, or in a page of theirs: of some
// faults only the page is known.
func holds(base unsafe.Pointer, n, addr uintptr) bool {
	page := uintptr(os.Getpagesize())
	return addr >= uintptr(base)&^(page-1) && addr < (uintptr(base)+n+page-1)&^(page-1)
}
