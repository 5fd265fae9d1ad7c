package engine

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// preadv2 and pwritev2 take iovecs as they stand in a request: the wrappers of
// x/sys/unix want [][]byte and build (allocate) the iovecs anew.
func preadv2(fd int, iov []unix.Iovec, off int64, flags int) (int64, error) {
	return vectored(unix.SYS_PREADV2, fd, iov, off, flags)
}

func pwritev2(fd int, iov []unix.Iovec, off int64, flags int) (int64, error) {
	return vectored(unix.SYS_PWRITEV2, fd, iov, off, flags)
}

// vectored passes the offset in its low word only: on 64-bit kernels the low
// word holds all of it (fs/read_write.c, pos_from_hilo).
func vectored(trap uintptr, fd int, iov []unix.Iovec, off int64, flags int) (int64, error) {
	n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])),
		uintptr(len(iov)), uintptr(off), 0, uintptr(flags))
	if errno != 0 {
		return 0, errno
	}
	return int64(n), nil
}

// Retry repeats call while a signal interrupts it.
func Retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// PunchHoleAt makes [off, off+n) of fd read as zeroes and gives its space back;
// the file's size stays. It fails with EOPNOTSUPP where the file system cannot.
func PunchHoleAt(fd int, off, n int64) error {
	return Retry(func() error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

// zeroes is what ZeroRangeAt writes where the file system cannot do it itself, on
// a page's border as direct I/O wants it.
var zeroes = func() []byte {
	const n, page = 1 << 18, 4096
	b := make([]byte, n+page)
	return b[-uintptr(unsafe.Pointer(&b[0]))&(page-1):][:n]
}()

// ZeroRangeAt makes [off, off+n) of fd read as zeroes. Where the file system
// has no FALLOC_FL_ZERO_RANGE (tmpfs, for one) it writes zeroes.
func ZeroRangeAt(fd int, off, n int64) error {
	err := Retry(func() error {
		return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if err != unix.EOPNOTSUPP {
		return err
	}
	for n > 0 {
		done, err := unix.Pwrite(fd, zeroes[:min(n, int64(len(zeroes)))], off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		off, n = off+int64(done), n-int64(done)
	}
	return nil
}

// Poll sleeps until one of fds can be read.
func Poll(fds []unix.PollFd) { pollFor(fds, -1) }

// pollFor is Poll for so many milliseconds at most; -1 is for ever.
func pollFor(fds []unix.PollFd, timeout int) {
	if _, err := unix.Poll(fds, timeout); err != nil { // nobody filled in what came
		if err != unix.EINTR { // no memory, or too few descriptors are allowed
			time.Sleep(failedPause * time.Millisecond)
		}
		for i := range fds {
			fds[i].Revents = 0
		}
	}
}
