package foreign

import (
	"time"

	"golang.org/x/sys/unix"
)

// Front-ends share the open files of the descriptors that they send, and with them
// O_NONBLOCK, which they can clear at any time. So a goroutine that must not block uses a flag
// of each call (RWF_NOWAIT, preadv2(2)).

// ReadNoWait is read(2) that returns EAGAIN if there is nothing to read. From a file without
// such a read, an inotify instance for example, it reads nothing and returns EOPNOTSUPP.
func ReadNoWait(fd int, b []byte) (int, error) {
	return unix.Preadv2(fd, [][]byte{b}, -1, unix.RWF_NOWAIT)
}

// Signal makes an eventfd of the front-end readable. It is for goroutines that must not block,
// and too slow for each request: the eventfd may be full and blocking, and may become so just
// before the write. Only a read ends the write then, even if O_NONBLOCK is set meanwhile:
// eventfd_write has tested it before it began to wait.
func Signal(fd int) {
	if IsFull(fd) {
		return // it is readable
	}
	written, ended := make(chan struct{}), make(chan struct{})
	watch := time.AfterFunc(10*time.Millisecond, func() {
		defer close(ended)
		for {
			select {
			case <-written:
				return
			default:
				Empty(fd)
				time.Sleep(time.Millisecond)
			}
		}
	})
	_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	close(written)
	if !watch.Stop() {
		<-ended // fd is the caller's again
	}
}

// IsFull reports whether a write to an eventfd would wait, or fail, for want of room.
func IsFull(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p[:], 0)
	return n == 0 && err == nil
}

// Empty reads an eventfd that is full, so that a write to it that blocks can return, and
// reports whether it was full. No well-behaved process fills an eventfd.
func Empty(fd int) bool {
	var b [8]byte
	if !IsFull(fd) {
		return false
	}
	_, err := ReadNoWait(fd, b[:])
	return err == nil
}
