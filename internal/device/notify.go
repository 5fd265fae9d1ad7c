package device

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// call tells the driver of what is published.
func (w *worker) call() {
	w.notify.Lock()
	signalFD(w.ring.Call)
	w.notify.Unlock()
}

// one is what an eventfd is written with. Nobody changes it; it stands here, and
// not in a frame, because the race detector's builds would allocate it.
var one = [8]byte{1}

// signalFD writes to an eventfd, -1 meaning that nobody wants to hear. A full
// eventfd has been signalled already.
func signalFD(fd int) {
	if fd >= 0 {
		_, _ = unix.Write(fd, one[:])
	}
}

// What a worker signals is non-blocking when it comes, but its open file is the
// front-end's too, which can make it block again, and full: the worker is stuck then.
// No kernel has a write to an eventfd that says that it is not to wait, and a look before
// each write would be a system call more for each batch. So whoever waits for a worker
// lets it go.

// unstick empties what the worker is stuck in, or would be. It is for the goroutine that
// starts and stops the worker, which has no need of w.notify for looking at w.ring.
func (w *worker) unstick() {
	for _, fd := range [...]int{w.ring.Call, w.ring.Err, w.ring.LogCall} {
		if fd >= 0 && foreign.Empty(fd) {
			w.dev.errs.Error(fmt.Errorf("queue %d: its front-end has filled a descriptor that it is to be signalled with: it is emptied", w.index))
			foreign.Signal(fd) // should nobody be stuck in it
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
