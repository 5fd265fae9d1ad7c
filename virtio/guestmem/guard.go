package guestmem

import (
	"fmt"
	"runtime/debug"

	"github.com/zvhost/zvhost/internal/memfault"
)

// A Part is memory that the front-end can remove: guest memory, a dirty log.
type Part interface {
	// Has reports whether an address of this process is in it. A nil Part has none.
	Has(addr uintptr) bool
}

// Guard runs f, which accesses parts, and returns a fault there as an error. f holds no
// lock. Other panics, and faults elsewhere, are bugs and are not recovered.
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
	for _, s := range m.all() {
		if memfault.In(s.mem, addr) {
			return true
		}
	}
	return false
}

// Has implements Part.
func (l *Log) Has(addr uintptr) bool { return l != nil && memfault.In(l.bits, addr) }
