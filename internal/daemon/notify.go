package daemon

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser"
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
// eventfd or pipe has been signalled already.
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
		if fd >= 0 && blocks(fd) && empty(fd) {
			w.dev.errs.Error(fmt.Errorf("queue %d: its front-end has made a descriptor that it is to be signalled with block, and full: it is emptied", w.index))
		}
	}
}

// blocks says whether a write to fd waits.
func blocks(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		return false
	}
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p[:], 0)
	return n == 0 && err == nil
}

// empty makes room in fd, as far as it is possible.
func empty(fd int) bool {
	var b [4096]byte
	n, err := vhostuser.ReadNoWait(fd, b[:])
	if err == unix.EBADF { // a pipe's other end
		r, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		defer func() { _ = unix.Close(r) }()
		n, _ = unix.Read(r, b[:])
	}
	return n > 0
}

// hold takes w.notify, for the goroutine that starts and stops the worker.
func (w *worker) hold() {
	for !w.notify.TryLock() {
		w.unstick()
		time.Sleep(time.Millisecond)
	}
}
