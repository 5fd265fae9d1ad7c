package engine

import (
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/iovec"
)

// DefaultThreads is how many helper goroutines a Threads engine starts at most
// when it is not told otherwise. Each sits in a blocking system call, so this
// is the depth that the disk below can see from one queue, less one: the worker
// itself carries out reads and writes too.
const DefaultThreads = 8

// Threads is the engine that runs everywhere: blocking system calls. Submit
// puts a batch on a list from which the worker and its helpers take; data that
// the page cache can serve is mostly moved by the worker itself, without a
// hand-over, and what blocks is spread over the helpers. Syncs and hole
// punching, which are slow and rare, are left to the helpers.
type Threads struct {
	wake func()
	max  int

	staged opList // the worker's alone

	mu      sync.Mutex // guards what follows
	work    sync.Cond
	data    opList // reads and writes, taken by anyone
	slow    opList // the rest, taken by helpers only
	idle    int
	started int
	closed  bool
	helpers sync.WaitGroup

	finished atomic.Pointer[Op] // a stack; reaped whole
	reaped   *Op                // the worker's: what it took off, oldest first
	scratch  []unix.Iovec       // the worker's
}

// NewThreads makes an engine with at most helpers helper goroutines (0 means
// DefaultThreads), started as they are needed. It calls wake, from any
// goroutine, whenever a helper finishes an Op.
func NewThreads(helpers int, wake func()) *Threads {
	if helpers <= 0 {
		helpers = DefaultThreads
	}
	t := &Threads{wake: wake, max: helpers}
	t.work.L = &t.mu
	return t
}

// Queue implements Engine.
func (t *Threads) Queue(op *Op) { t.staged.push(op) }

// Submit implements Engine. It returns when no read or write is left that no
// helper has taken, so the worker shares the work instead of waiting for it.
func (t *Threads) Submit() {
	if t.staged.head == nil {
		return
	}
	// A single read or write needs no list and no lock: the common case at
	// queue depth 1.
	if op := t.staged.head; op.next == nil && op.isData() {
		t.staged = opList{}
		t.run(op, &t.scratch)
		t.finish(op)
		return
	}
	t.mu.Lock()
	for op := t.staged.pop(); op != nil; op = t.staged.pop() {
		if op.isData() {
			t.data.push(op)
		} else {
			t.slow.push(op)
		}
	}
	// The worker takes one of the reads and writes itself.
	t.summon(max(t.data.n-1, 0) + t.slow.n)
	for op := t.data.pop(); op != nil; op = t.data.pop() {
		t.mu.Unlock()
		t.run(op, &t.scratch)
		t.finish(op)
		t.mu.Lock()
	}
	t.mu.Unlock()
}

// summon gets n helpers to work, starting them if there are too few. t.mu is
// held.
func (t *Threads) summon(n int) {
	for range n {
		if t.idle > 0 {
			t.idle-- // here, not by the one that wakes: the next call must not count on it again
			t.work.Signal()
			continue
		}
		if t.started == t.max {
			return
		}
		t.started++
		t.helpers.Add(1)
		go t.help()
	}
}

func (t *Threads) help() {
	// A goroutine that spends its life in blocking system calls keeps its
	// thread busy anyway; owning it spares the scheduler a search.
	runtime.LockOSThread()
	defer t.helpers.Done()
	var scratch []unix.Iovec
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		op := t.slow.pop()
		if op == nil {
			op = t.data.pop()
		}
		if op == nil {
			if t.closed {
				return
			}
			t.idle++
			t.work.Wait()
			continue
		}
		t.mu.Unlock()
		t.run(op, &scratch)
		t.finish(op)
		t.wake()
		t.mu.Lock()
	}
}

// finish puts op on the stack of finished Ops.
func (t *Threads) finish(op *Op) {
	for {
		head := t.finished.Load()
		op.next = head
		if t.finished.CompareAndSwap(head, op) {
			return
		}
	}
}

// Reap implements Engine.
func (t *Threads) Reap() *Op {
	if t.reaped == nil && t.finished.Load() != nil {
		// Turn the stack over, so that what finished first is answered first.
		for op := t.finished.Swap(nil); op != nil; {
			next := op.next
			op.next, t.reaped = t.reaped, op
			op = next
		}
	}
	op := t.reaped
	if op != nil {
		t.reaped, op.next = op.next, nil
	}
	return op
}

// Wait implements Engine. What finishes calls wake, so one of fds has to be what
// that makes readable.
func (t *Threads) Wait(fds []unix.PollFd) { Poll(fds) }

// Err implements Engine.
func (t *Threads) Err() error { return nil }

// Close implements Engine.
func (t *Threads) Close() error {
	t.mu.Lock()
	t.closed = true
	t.work.Broadcast()
	t.mu.Unlock()
	t.helpers.Wait()
	return nil
}

func (op *Op) isData() bool { return op.Code == Readv || op.Code == Writev }

// run carries op out. scratch is the caller's, for iovecs after a short
// transfer.
func (t *Threads) run(op *Op, scratch *[]unix.Iovec) {
	op.N, op.Err = 0, nil
	switch op.Code {
	case Readv, Writev:
		op.transfer(scratch)
	case Fdatasync:
		op.Err = Retry(func() error { return unix.Fdatasync(op.FD) })
	case PunchHole:
		op.Err = PunchHoleAt(op.FD, op.Off, op.Len)
	case ZeroRange:
		op.Err = ZeroRangeAt(op.FD, op.Off, op.Len)
	case ZoneReset, ZoneOpen, ZoneClose, ZoneFinish:
		op.Err = ManageZones(op.FD, op.Code, op.Off, op.Len)
	case ZoneReport:
		op.Err = ReportZones(op.FD, op.Off, unsafe.Slice(op.Iov[0].Base, op.Iov[0].Len), false)
	default:
		op.Err = unix.EINVAL
	}
	if op.Err == nil && !op.isData() {
		op.N = op.Len
	}
}

// iovMax is the kernel's limit on the vectors of one call (UIO_MAXIOV).
const iovMax = 1024

// transfer moves all of op's bytes, in as many calls as it takes.
func (op *Op) transfer(scratch *[]unix.Iovec) {
	iov := op.Iov
	for op.N < op.Len {
		if op.quits() {
			op.Err = ErrQuit
			return
		}
		n, err := op.call(iov[:min(len(iov), iovMax)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			op.Err = err
			return
		case n == 0 && op.Code == Readv:
			op.Err = io.ErrUnexpectedEOF
			return
		case n == 0:
			// A write that moves nothing and reports nothing: the device is
			// full in a way that the kernel did not name.
			op.Err = unix.ENOSPC
			return
		}
		op.N += n
		if op.N < op.Len {
			*scratch = append((*scratch)[:0], iov...)
			iov = iovec.Advance(*scratch, uint64(n))
		}
	}
}

func (op *Op) call(iov []unix.Iovec) (int64, error) {
	if len(iov) == 0 {
		return 0, unix.EINVAL // Len promised more than Iov holds
	}
	off := op.Off + op.N
	if op.Code == Readv {
		return preadv2(op.FD, iov, off, 0)
	}
	flags := 0
	if op.Dsync {
		flags = unix.RWF_DSYNC
	}
	return pwritev2(op.FD, iov, off, flags)
}

// opList is a singly linked list of Ops, first in, first out.
type opList struct {
	head, tail *Op
	n          int
}

func (l *opList) push(op *Op) {
	op.next = nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.next = op
	}
	l.tail = op
	l.n++
}

func (l *opList) pop() *Op {
	op := l.head
	if op == nil {
		return nil
	}
	if l.head = op.next; l.head == nil {
		l.tail = nil
	}
	l.n--
	op.next = nil
	return op
}
