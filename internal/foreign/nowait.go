package foreign

import (
	"time"

	"golang.org/x/sys/unix"
)

// Front-ends share the open files of the descriptors that they send, and with them
// O_NONBLOCK: that it was set says nothing of now. So whoever must not get stuck says so
// with each call (RWF_NOWAIT, readv(2)).

// ReadNoWait is read(2) that says EAGAIN where nothing is there. Of a file that has no such
// read, such as an inotify instance, it reads nothing and says EOPNOTSUPP.
func ReadNoWait(fd int, b []byte) (int, error) {
	return unix.Preadv2(fd, [][]byte{b}, -1, unix.RWF_NOWAIT)
}

// Signal makes an eventfd of the front-end's readable. It is for whoever must not get
// stuck, and does not do it for each request: the eventfd may be full, and block, and may
// become so just before it is written to. Only reading it helps then, whatever O_NONBLOCK
// says by now: eventfd_write has looked at it before it began to wait.
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

// IsFull says whether a write to an eventfd would wait, or fail, for want of room.
func IsFull(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p[:], 0)
	return n == 0 && err == nil
}

// Empty takes from an eventfd that is full, so that whoever waits to write to it goes on,
// and says whether it was. One that is full has been signalled by nobody who means well.
func Empty(fd int) bool {
	var b [8]byte
	if !IsFull(fd) {
		return false
	}
	_, err := ReadNoWait(fd, b[:])
	return err == nil
}
