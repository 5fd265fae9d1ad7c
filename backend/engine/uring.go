package engine

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/uring"
)

// Uring is the engine over io_uring. Reads, writes and syncs go to the ring, all
// of a batch by one system call, and are reaped without one where the kernel has
// delivered them already. What io_uring is not better at, hole punching and zone
// commands, goes to helpers as in Threads.
//
// It belongs to the thread that made it.
type Uring struct {
	*async
	ring    *uring.Ring
	watches []watch // descriptors that Wait was given
}

// watch is a poll of a descriptor by the ring.
type watch struct {
	fd           int32
	armed, fired bool
}

// watchBase is the user data of the first watch, behind those of all slots.
const watchBase = depth

// NewUring makes an engine over a ring of its own. The error says why the kernel
// gives none, see uring.New.
func NewUring(wake func()) (*Uring, error) {
	ring, err := uring.New(depth)
	if err != nil {
		return nil, err
	}
	return &Uring{async: newAsync(wake), ring: ring}, nil
}

// Queue implements Engine.
func (u *Uring) Queue(op *Op) {
	switch op.Code {
	case Readv, Writev, Fdatasync:
	default:
		u.slow.Queue(op)
		return
	}
	op.N, op.Err = 0, nil
	if u.inMemory(op.FD) {
		u.inline.push(op)
	} else {
		u.staged.push(op)
	}
}

// Submit implements Engine.
func (u *Uring) Submit() {
	u.slow.Submit()
	u.enter()
	u.runInline()
}

// enter hands to the kernel what is staged, as far as there is room.
func (u *Uring) enter() {
	if u.err != nil {
		u.refuse()
		return
	}
	bytes := int64(0)
	for u.skipQuits(); u.staged.head != nil && len(u.free) > 0; u.skipQuits() {
		sqe := u.ring.SQE()
		if sqe == nil {
			break
		}
		op := u.staged.pop()
		sqe.UserData = uint64(u.place(op))
		op.fill(sqe)
		if bytes += op.Len - op.N; bytes >= mostAtOnce {
			bytes = 0
			u.syscall(0)
		}
	}
	if u.ring.Staged() > 0 {
		u.syscall(0)
	}
}

// syscall submits and delivers, and sleeps until so many completions are there.
// What the kernel does not take, for want of memory, stays staged, and Submit is
// called again whenever the worker looks. Any other error is the end of the engine.
func (u *Uring) syscall(wait int) {
	switch err := u.ring.Enter(wait); err {
	case nil, unix.EINTR, unix.EAGAIN, unix.EBUSY, unix.ENOMEM:
	default:
		u.fail(fmt.Errorf("io_uring_enter: %w", err))
		for _, data := range u.ring.Unstage() {
			if data < watchBase {
				u.ended(uint32(data), -int64(unix.EIO))
			} else {
				u.watches[data-watchBase].armed = false
			}
		}
		u.refuse()
	}
}

func (op *Op) fill(sqe *uring.SQE) {
	// Not a registered file: a ring that goes away with its process lets go of those
	// some time later only, and the lock of a disk with them.
	sqe.FD = int32(op.FD)
	if op.Code == Fdatasync {
		sqe.Opcode, sqe.RWFlags = uring.OpFsync, uring.FsyncDatasync
		return
	}
	sqe.Off = uint64(op.Off + op.N)
	if iov := op.left(); len(iov) == 1 && iov[0].Len <= maxRW {
		sqe.Opcode = uring.OpRead
		sqe.Addr, sqe.Len = uint64(uintptr(unsafe.Pointer(iov[0].Base))), uint32(iov[0].Len)
	} else {
		sqe.Opcode = uring.OpReadv
		sqe.Addr, sqe.Len = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(iov)))), uint32(len(iov))
	}
	if op.Code == Writev {
		sqe.Opcode++ // a write stands behind its read
		if op.Dsync {
			sqe.RWFlags = unix.RWF_DSYNC
		}
	}
}

// maxRW is the most that the kernel moves in one go (MAX_RW_COUNT).
const maxRW = 0x7ffff000

// Reap implements Engine.
func (u *Uring) Reap() *Op {
	if u.done.head == nil {
		u.collect()
		if u.done.head == nil && u.ring.Due() {
			u.syscall(0) // what cannot be delivered now is due again
			u.collect()
		}
	}
	if op := u.done.pop(); op != nil {
		return op
	}
	return u.slow.Reap()
}

// collect takes what the ring has delivered.
func (u *Uring) collect() {
	for c, ok := u.ring.Next(); ok; c, ok = u.ring.Next() {
		if c.UserData < watchBase {
			u.ended(uint32(c.UserData), int64(c.Res))
			continue
		}
		w := &u.watches[c.UserData-watchBase]
		w.armed, w.fired = false, true
	}
	if u.staged.head != nil {
		u.enter() // there is room now for what had to wait
	}
}

// Wait implements Engine. The descriptors are polled by the ring itself, so that
// one system call submits, sleeps and delivers. A poll that has not fired stays in
// the ring for the next time.
func (u *Uring) Wait(fds []unix.PollFd) {
	for i := range fds {
		fds[i].Revents = 0
	}
	if u.collect(); u.done.head != nil {
		return
	}
	if u.err != nil {
		pollFor(fds, failedPause)
		u.syscall(0)
		return
	}
	asleep := true
	for i := range fds {
		if w := u.watch(&fds[i]); w != nil && w.fired {
			asleep = false
		}
	}
	if asleep {
		u.syscall(1)
		u.collect()
	}
	for i := range fds {
		if w := u.watch(&fds[i]); w != nil && w.fired {
			w.fired, fds[i].Revents = false, fds[i].Events
		}
	}
}

// watch finds the watch over a descriptor, and arms it unless it is or has fired;
// nil for a descriptor of -1.
func (u *Uring) watch(p *unix.PollFd) *watch {
	if p.Fd < 0 {
		return nil
	}
	i := 0
	for i < len(u.watches) && u.watches[i].fd != p.Fd {
		i++
	}
	if i == len(u.watches) {
		u.watches = append(u.watches, watch{fd: p.Fd})
	}
	w := &u.watches[i]
	if !w.armed && !w.fired {
		if sqe := u.ring.SQE(); sqe != nil { // else the next Wait finds room
			sqe.Opcode, sqe.FD, sqe.RWFlags = uring.OpPollAdd, p.Fd, uint32(p.Events)
			sqe.UserData = watchBase + uint64(i)
			w.armed = true
		}
	}
	return w
}

// Close implements Engine.
func (u *Uring) Close() error {
	err := u.slow.Close()
	for u.collect(); len(u.free) < depth; u.collect() {
		if u.syscall(1); u.err != nil {
			time.Sleep(failedPause * time.Millisecond)
		}
	}
	return errors.Join(err, u.ring.Close())
}
