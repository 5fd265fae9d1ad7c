package engine

import (
	"io"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/iovec"
)

// depth is how many reads and writes one queue has at the disk at most; what is
// beyond waits its turn. A ring of a common guest has 128 or 256 entries.
const depth = 256

// mostAtOnce is how many bytes one system call submits, or one more Op's. The kernel moves
// data that is in the page cache right there, so what quits meanwhile would be moved, too.
const mostAtOnce = 64 << 20

// async is what the engines have in common that leave I/O to the kernel: which
// Ops wait, which are in the kernel under which number, and what comes next for
// one that comes back.
//
// Files that live in memory are read and written in place, by the worker: the
// kernel has no asynchronous path for them, and io_uring would give each request
// to a thread of its own.
type async struct {
	slow   *Threads // what the kernel has no better way for
	inline opList   // to be done in place
	staged opList   // to be handed to the kernel
	done   opList
	slots  [depth]*Op // what is in the kernel
	free   []uint32   // slots that are not in use
	err    error      // see Engine.Err

	files []file
}

// file is what an engine knows of a descriptor.
type file struct {
	fd       int
	inMemory bool
}

func newAsync(wake func()) *async {
	a := &async{slow: NewThreads(0, wake), free: make([]uint32, depth)}
	for i := range a.free {
		a.free[i] = uint32(i)
	}
	return a
}

// inMemory says whether a file is one in memory. A disk has two or three, so a list
// of what was found out is searched fast.
func (a *async) inMemory(fd int) bool {
	for i := range a.files {
		if a.files[i].fd == fd {
			return a.files[i].inMemory
		}
	}
	f := file{fd: fd, inMemory: memoryFS(fd)}
	a.files = append(a.files, f)
	return f.inMemory
}

// place takes a number for op.
func (a *async) place(op *Op) (slot uint32) {
	slot = a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	a.slots[slot] = op
	return slot
}

// skipQuits ends what quits and stands first in line for the kernel.
func (a *async) skipQuits() {
	for a.staged.head != nil && a.staged.head.quits() {
		op := a.staged.pop()
		op.Err, op.rest = ErrQuit, nil
		a.done.push(op)
	}
}

// runInline carries out what is done in place.
func (a *async) runInline() {
	for op := a.inline.pop(); op != nil; op = a.inline.pop() {
		a.slow.run(op, &a.slow.scratch)
		a.done.push(op)
	}
}

// ended takes an Op back from the kernel, with the bytes that it moved or a
// negative errno. Where that was not all, the rest is staged.
func (a *async) ended(slot uint32, res int64) {
	op := a.slots[slot]
	a.slots[slot] = nil
	a.free = append(a.free, slot)
	switch err := unix.Errno(-res); {
	case res < 0 && (err == unix.EINTR || err == unix.EAGAIN):
		a.staged.push(op)
		return
	case res < 0:
		op.Err = err
	case op.Code == Fdatasync:
		op.N = op.Len
	case res == 0 && len(op.left()) == 0:
		op.Err = unix.EINVAL // Len promised more than Iov holds
	case res == 0 && op.Code == Readv:
		op.Err = io.ErrUnexpectedEOF
	case res == 0:
		op.Err = unix.ENOSPC // see Op.transfer
	default:
		if op.N += res; op.N < op.Len {
			if op.rest == nil {
				op.spare = append(op.spare[:0], op.Iov...)
				op.rest = op.spare
			}
			op.rest = iovec.Advance(op.rest, uint64(res))
			a.staged.push(op)
			return
		}
	}
	op.rest = nil
	a.done.push(op)
}

// Err implements Engine.
func (a *async) Err() error { return a.err }

// fail makes err what is wrong with the engine, if nothing was before.
func (a *async) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// refuse ends what is staged, which the kernel will not be given any more.
func (a *async) refuse() {
	for op := a.staged.pop(); op != nil; op = a.staged.pop() {
		op.Err, op.rest = unix.EIO, nil
		a.done.push(op)
	}
}

// failedPause is how long to wait for the kernel, in milliseconds, before it is asked
// again for what it has taken, once it has failed.
const failedPause = 50

// left is what of op's vectors is still to be moved, as many as one call takes.
func (op *Op) left() []unix.Iovec {
	iov := op.Iov
	if op.rest != nil {
		iov = op.rest
	}
	return iov[:min(len(iov), iovMax)]
}

// memoryFS says whether a file's data is memory of the kernel's, so that it can be
// read and written without waiting for any disk. A device is not, though its node
// lies on devtmpfs.
func memoryFS(fd int) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if Retry(func() error { return unix.Fstat(fd, &st) }) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG ||
		Retry(func() error { return unix.Fstatfs(fd, &fs) }) != nil {
		return false
	}
	return fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC
}
