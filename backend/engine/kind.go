package engine

import (
	"fmt"
	"runtime"
)

// Kind names an engine, as QEMU's aio option does.
type Kind string

// The engines there are.
const (
	KindUring   Kind = "io_uring"
	KindNative  Kind = "native"
	KindThreads Kind = "threads"
)

// Kinds are all of them, the best first.
var Kinds = []Kind{KindUring, KindNative, KindThreads}

// Open makes an engine of that kind. It belongs to the goroutine that calls it,
// which must be locked to its thread. wake is called, from any goroutine, when an
// Op has finished that Wait would not notice.
func (k Kind) Open(wake func()) (Engine, error) {
	switch k {
	case KindUring:
		u, err := NewUring(wake)
		if err != nil { // not "return NewUring(wake)": a nil *Uring is no nil Engine
			return nil, err
		}
		return u, nil
	case KindNative:
		n, err := NewNative(wake)
		if err != nil {
			return nil, err
		}
		return n, nil
	case KindThreads:
		return NewThreads(0, wake), nil
	}
	return nil, fmt.Errorf("%q is no engine: there are %v", string(k), Kinds)
}

// Probe says why the kernel has no engine of that kind, by making one.
func (k Kind) Probe() error {
	runtime.LockOSThread() // a ring is of one thread
	defer runtime.UnlockOSThread()
	e, err := k.Open(func() {})
	if err != nil {
		return err
	}
	return e.Close()
}
