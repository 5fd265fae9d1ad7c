package memfault

import (
	"os"
	"runtime"
	"unsafe"
)

// Addr is the address at which memory was not there, if v says that. v is what
// recover has returned in a goroutine that has debug.SetPanicOnFault on.
func Addr(v any) (addr uintptr, ok bool) {
	fault, ok := v.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok {
		return 0, false
	}
	return fault.Addr(), true
}

// In says whether addr lies in b, or in a page of b's: of some faults the processor
// reports the page only.
func In(b []byte, addr uintptr) bool {
	return InRange(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)), addr)
}

// InRange is In for the n bytes at base. n may be 0: then no address lies there.
func InRange(base unsafe.Pointer, n, addr uintptr) bool {
	if n == 0 {
		return false
	}
	page := uintptr(os.Getpagesize())
	return addr >= uintptr(base)&^(page-1) && addr < (uintptr(base)+n+page-1)&^(page-1)
}
