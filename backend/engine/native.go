package engine

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Native is the engine over the kernel's own asynchronous I/O (linux-aio, io_submit(2)).
// It is asynchronous for files and devices opened with O_DIRECT only: with a page
// cache between, io_submit carries the I/O out before it returns. Syncs and the
// rest go to helpers.
type Native struct {
	*async
	ctx  uintptr
	ring *aioRing
	fd   int // eventfd, written by the kernel for each completion
	poll []unix.PollFd

	iocbs  [depth]iocb
	batch  [depth]*iocb
	events [depth]ioEvent
	drain  [8]byte
}

// aioRing is the head of struct aio_ring (fs/aio.c), which stands at the address
// that is a context's name; io_getevents of libaio looks there too.
type aioRing struct {
	_, _       uint32 // id, nr
	head, tail uint32
	magic      uint32
}

const aioRingMagic = 0xa10a10a1

// iocb is struct iocb of include/uapi/linux/aio_abi.h, in the order of
// little-endian machines.
type iocb struct {
	data    uint64
	_       uint32 // key
	rwFlags uint32
	opcode  uint16
	_       int16 // reqprio
	fd      uint32
	buf     uint64
	n       uint64
	off     int64
	_       uint64
	flags   uint32
	resfd   uint32
}

const (
	iocbPreadv    = 7 // IOCB_CMD_PREADV
	iocbPwritev   = 8 // IOCB_CMD_PWRITEV
	iocbFlagResfd = 1 // IOCB_FLAG_RESFD
)

// ioEvent is struct io_event.
type ioEvent struct {
	data, _ uint64 // obj
	res, _  int64  // res2
}

// NewNative makes an engine over a context of its own. The error says why the
// kernel gives none: ENOSYS, or EAGAIN when fs.aio-max-nr is used up.
func NewNative(wake func()) (*Native, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("an eventfd for linux-aio: %w", err)
	}
	n := &Native{async: newAsync(wake), fd: fd}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, depth, uintptr(unsafe.Pointer(&n.ctx)), 0); errno != 0 {
		err := fmt.Errorf("io_setup: %w", errno)
		if errno == unix.EAGAIN {
			err = fmt.Errorf("%w: fs.aio-max-nr is used up, by all processes together: raise it", err)
		}
		return nil, errors.Join(err, unix.Close(fd))
	}
	n.ring = *(**aioRing)(unsafe.Pointer(&n.ctx))
	if n.ring.magic != aioRingMagic {
		n.ring = nil // every look asks the kernel then
	}
	return n, nil
}

// Queue implements Engine.
func (n *Native) Queue(op *Op) {
	if op.Code != Readv && op.Code != Writev {
		n.slow.Queue(op)
		return
	}
	op.N, op.Err = 0, nil
	if n.inMemory(op.FD) {
		n.inline.push(op)
	} else {
		n.staged.push(op)
	}
}

// Submit implements Engine.
func (n *Native) Submit() {
	n.slow.Submit()
	n.enter()
	n.runInline()
}

// enter hands to the kernel what is staged, as far as there is room.
func (n *Native) enter() {
	if n.err != nil {
		n.refuse()
		return
	}
	for n.skipQuits(); n.staged.head != nil && len(n.free) > 0; n.skipQuits() {
		k, bytes := 0, int64(0)
		for ; n.staged.head != nil && len(n.free) > 0 && bytes < mostAtOnce; n.skipQuits() {
			op := n.staged.pop()
			slot := n.place(op)
			n.iocbs[slot] = n.iocb(op, slot)
			n.batch[k] = &n.iocbs[slot]
			k++
			bytes += op.Len - op.N
		}
		if !n.submit(n.batch[:k]) {
			return
		}
	}
}

func (n *Native) iocb(op *Op, slot uint32) iocb {
	iov := op.left()
	c := iocb{
		data: uint64(slot), opcode: iocbPreadv, fd: uint32(op.FD), off: op.Off + op.N,
		buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(iov)))), n: uint64(len(iov)),
		flags: iocbFlagResfd, resfd: uint32(n.fd),
	}
	if op.Code == Writev {
		c.opcode = iocbPwritev
		if op.Dsync {
			c.rwFlags = unix.RWF_DSYNC
		}
	}
	return c
}

// submit hands iocbs to the kernel, and is false when it takes no more for now.
func (n *Native) submit(batch []*iocb) bool {
	for len(batch) > 0 {
		took, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, n.ctx, uintptr(len(batch)), uintptr(unsafe.Pointer(&batch[0])))
		switch errno {
		case 0:
			batch = batch[took:]
		case unix.EINTR:
		case unix.EAGAIN: // its own limit, or no memory: they wait for others to end
			for _, c := range batch {
				n.ended(uint32(c.data), -int64(unix.EAGAIN))
			}
			return false
		default: // the first of them is what it does not like
			n.ended(uint32(batch[0].data), -int64(errno))
			batch = batch[1:]
		}
	}
	return true
}

// Reap implements Engine.
func (n *Native) Reap() *Op {
	if n.done.head == nil {
		n.collect()
	}
	if op := n.done.pop(); op != nil {
		return op
	}
	return n.slow.Reap()
}

// collect takes what the kernel has finished.
func (n *Native) collect() {
	if len(n.free) < depth && (n.ring == nil || atomic.LoadUint32(&n.ring.head) != atomic.LoadUint32(&n.ring.tail)) {
		n.getEvents(0)
	}
	if n.staged.head != nil {
		n.enter()
	}
}

// getEvents takes what is finished, and sleeps until that is at least so many.
func (n *Native) getEvents(atLeast int) {
	got, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, n.ctx, uintptr(atLeast), depth, uintptr(unsafe.Pointer(&n.events)), 0, 0)
	switch errno {
	case 0:
	case unix.EINTR:
		return
	default:
		n.fail(fmt.Errorf("io_getevents: %w", errno))
		n.refuse()
		return
	}
	for i := range n.events[:got] {
		n.ended(uint32(n.events[i].data), n.events[i].res)
	}
}

// Wait implements Engine.
func (n *Native) Wait(fds []unix.PollFd) {
	// Refused with nothing in flight: nothing would end the sleep.
	if n.collect(); n.done.head != nil || n.staged.head != nil && len(n.free) == depth {
		for i := range fds {
			fds[i].Revents = 0
		}
		return
	}
	n.poll = append(append(n.poll[:0], fds...), unix.PollFd{Fd: int32(n.fd), Events: unix.POLLIN})
	timeout := -1
	if n.err != nil {
		timeout = failedPause
	}
	pollFor(n.poll, timeout)
	for i := range fds {
		fds[i].Revents = n.poll[i].Revents
	}
	if n.poll[len(fds)].Revents != 0 {
		_, _ = unix.Read(n.fd, n.drain[:])
	}
}

// Close implements Engine.
func (n *Native) Close() error {
	err := n.slow.Close()
	for n.collect(); len(n.free) < depth; n.collect() {
		if n.getEvents(1); n.err != nil {
			time.Sleep(failedPause * time.Millisecond)
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_IO_DESTROY, n.ctx, 0, 0); errno != 0 {
		err = errors.Join(err, fmt.Errorf("io_destroy: %w", errno))
	}
	return errors.Join(err, unix.Close(n.fd))
}
