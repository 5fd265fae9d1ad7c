package device

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// call notifies the driver of what is published.
func (w *worker) call() {
	w.notify.Lock()
	signalFD(w.ring.Call)
	w.notify.Unlock()
}

// one is what is written to an eventfd. It is never changed; it is a global and not a local
// variable, which builds with the race detector would allocate.
var one = [8]byte{1}

// signalFD writes to an eventfd; -1: there is none. A full eventfd has been signalled
// already.
func signalFD(fd int) {
	if fd >= 0 {
		_, _ = unix.Write(fd, one[:])
	}
}

// The descriptors that a worker signals are non-blocking when they arrive, but the front-end
// has the same open file: it can make it blocking again, and full, and then the worker blocks
// in its write. No kernel has a write to an eventfd with a flag not to wait, and a poll before
// each write would be one more system call for each batch. So the goroutine that waits for a
// worker empties such a descriptor.

// unstick empties the descriptor whose write the worker is blocked in, or would be. Only the
// goroutine that starts and stops the worker may call it; it reads w.ring without w.notify.
func (w *worker) unstick() {
	for _, fd := range [...]int{w.ring.Call, w.ring.Err, w.ring.LogCall} {
		if fd >= 0 && foreign.Empty(fd) {
			w.dev.errs.Error(fmt.Errorf("queue %d: its front-end has filled an eventfd that the worker signals: it is emptied", w.index))
			foreign.Signal(fd) // in case the worker is not blocked in it
		}
	}
}

// hold takes w.notify, for the goroutine that starts and stops the worker.
func (w *worker) hold() {
	for !w.notify.TryLock() {
		w.unstick()
		time.Sleep(time.Millisecond)
	}
}
