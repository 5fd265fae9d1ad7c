package guestmem

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"unsafe"
)

// A Part is memory that the other side can take away: guest memory, a dirty log.
type Part interface {
	// Has says whether an address in this process lies in it. A nil Part has none.
	Has(addr uintptr) bool
}

// Guard runs f, which touches parts of the other side's memory, and makes an error of
// a fault there. f holds no lock meanwhile. Other panics, and faults elsewhere, are bugs
// and go on.
func Guard(f func() error, parts ...Part) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		fault, ok := v.(interface {
			runtime.Error
			Addr() uintptr
		})
		if !ok || !anyHas(parts, fault.Addr()) {
			panic(v)
		}
		err = fmt.Errorf("its memory is not there (fault at %#x): a front-end must keep what it shares as large as it has said, and have the huge pages for it", fault.Addr())
	}()
	return f()
}

func anyHas(parts []Part, addr uintptr) bool {
	for _, p := range parts {
		if p.Has(addr) {
			return true
		}
	}
	return false
}

// Holds says whether an address lies in b, or in a page of b's: of some faults only
// the page is known.
func Holds(b []byte, addr uintptr) bool {
	if len(b) == 0 {
		return false
	}
	page := uintptr(os.Getpagesize())
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	end := (start + uintptr(len(b)) + page - 1) &^ (page - 1)
	return addr >= start&^(page-1) && addr < end
}

// Has implements Part.
func (m *Memory) Has(addr uintptr) bool {
	if m == nil {
		return false
	}
	for i := range m.spans {
		if Holds(m.spans[i].mem, addr) {
			return true
		}
	}
	return false
}

// Has implements Part.
func (l *Log) Has(addr uintptr) bool { return l != nil && Holds(l.bits, addr) }
