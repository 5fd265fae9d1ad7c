package guestmem

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Guard runs f, which touches memory of the other side's, and makes an error of a fault
// there. f holds no lock meanwhile. Other panics are bugs and go on.
func Guard(f func() error) (err error) {
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
		if !ok {
			panic(v)
		}
		err = fmt.Errorf("its memory is not there (fault at %#x): a front-end must keep what it shares as large as it has said, and have the huge pages for it", fault.Addr())
	}()
	return f()
}
