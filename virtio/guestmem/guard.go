package guestmem

import (
	"fmt"
	"runtime/debug"

	"github.com/zvhost/zvhost/internal/memfault"
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
		addr, ok := memfault.Addr(v)
		if !ok || !anyHas(parts, addr) {
			panic(v)
		}
		err = fmt.Errorf("its memory is not there (fault at %#x): a front-end must keep what it shares as large as it has said, and have the huge pages for it", addr)
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

// Has implements Part.
func (m *Memory) Has(addr uintptr) bool {
	if m == nil {
		return false
	}
	for i := range m.spans {
		if memfault.In(m.spans[i].mem, addr) {
			return true
		}
	}
	return false
}

// Has implements Part.
func (l *Log) Has(addr uintptr) bool { return l != nil && memfault.In(l.bits, addr) }
