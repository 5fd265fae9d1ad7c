package vhostuser

import "golang.org/x/sys/unix"

// Front-ends share the open files of the descriptors that they send, and with them
// O_NONBLOCK: that it was set says nothing of now. So whoever must not get stuck says so
// with each call (RWF_NOWAIT, readv(2)).

// ReadNoWait is read(2) that says EAGAIN where nothing is there. A kernel that has no
// such read of a file of that kind (pipes, before Linux 6.4) goes by its O_NONBLOCK.
func ReadNoWait(fd int, b []byte) (int, error) {
	n, err := unix.Preadv2(fd, [][]byte{b}, -1, unix.RWF_NOWAIT)
	if err == unix.EOPNOTSUPP {
		return unix.Read(fd, b)
	}
	return n, err
}

// writeNoWait is write(2) as ReadNoWait is read(2). No kernel has it for eventfds.
func writeNoWait(fd int, b []byte) (int, error) {
	n, err := unix.Pwritev2(fd, [][]byte{b}, -1, unix.RWF_NOWAIT)
	if err == unix.EOPNOTSUPP {
		return unix.Write(fd, b)
	}
	return n, err
}
