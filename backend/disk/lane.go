package disk

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// A Lane is one worker's way through a disk: an engine of its own, the list of
// requests that are done, and a mailbox through which other goroutines (another
// worker that let a waiting request go, the image's committer) hand requests
// back. All methods but post and wake belong to the worker.
type Lane struct {
	eng      engine.Engine
	done     List
	unmoved  List // their I/O has failed without the engine
	detours  int  // see move
	waiting  List // for a detour of others to end
	inFlight int
	looked   bool         // since the last Start: see fileSize.before
	peeked   bool         // likewise, at the last page
	hurry    atomic.Bool  // no answer is held back any more
	quit     *atomic.Bool // see QuitOn
	starters []starter    // begin with Start

	armed  atomic.Bool
	wakeFD int // eventfd, readable when the worker must look
	drain  [8]byte
	poll   [2]unix.PollFd // here, so that to wait does not allocate

	mu   sync.Mutex // guards mail
	mail List
	full atomic.Bool // mail is not empty
}

// wakeUp is what is added to an eventfd: any number but zero will do, in any
// byte order.
var wakeUp = [8]byte{1}

// NewLane makes a lane over the engine that open returns. The engine calls the
// wake function it is given when an Op finishes.
func NewLane(open func(wake func()) (engine.Engine, error)) (*Lane, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("an eventfd for a queue worker: %w", err)
	}
	l := &Lane{wakeFD: fd}
	if l.eng, err = open(l.wake); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return l, nil
}

// QuitOn has reads that have not begun end with an error, engine.ErrQuit, once flag is
// true. It is called before the first Submit.
func (l *Lane) QuitOn(flag *atomic.Bool) { l.quit = flag }

// Submit admits r to d. It may be done at once, or later; Start must be called
// after the last Submit of a batch, Done tells.
func (l *Lane) Submit(d Disk, r *Request) {
	l.prepare(d, r)
	d.Submit(r)
}

// prepare makes r a request in flight.
func (l *Lane) prepare(d Disk, r *Request) {
	r.Lane, r.disk = l, d
	r.Err, r.Fault, r.over, r.ThenSync = nil, nil, false, false
	r.IO.Owner, r.IO.Quit = r, nil
	if r.Op == OpRead {
		r.IO.Quit = l.quit
	}
	l.inFlight++
}

// Start hands what was submitted to the engine, in one go.
func (l *Lane) Start() {
	for _, s := range l.starters {
		s.Begin(l)
	}
	l.starters = l.starters[:0]
	l.looked, l.peeked = false, false
	l.eng.Submit()
}

// Done returns a request that is done, or nil when none is at the moment. I/O
// that it finds has to follow is started before it returns nil.
func (l *Lane) Done() *Request {
	for {
		if r := l.done.Pop(); r != nil {
			l.inFlight--
			return r
		}
		if l.full.Load() {
			l.mu.Lock()
			mail := l.mail
			l.mail = List{}
			l.full.Store(false)
			l.mu.Unlock()
			for r := mail.Pop(); r != nil; r = mail.Pop() {
				if r.over {
					r.Finish(r.Err)
				} else {
					r.disk.Continue(r)
				}
			}
			continue
		}
		if r := l.unmoved.Pop(); r != nil {
			r.disk.Continue(r)
			continue
		}
		if l.waiting.Head != nil && l.detours < MaxBounces {
			l.depart(l.waiting.Pop())
			continue
		}
		op := l.eng.Reap()
		if op == nil {
			l.Start()
			if op = l.eng.Reap(); op == nil && l.done.Head == nil && l.unmoved.Head == nil && !l.full.Load() {
				return nil
			}
		}
		if op != nil {
			r := op.Owner.(*Request)
			if r.Bounce != nil && !l.arrive(r) {
				continue
			}
			r.disk.Continue(r)
		}
	}
}

// InFlight is the number of requests submitted and not yet returned by Done.
func (l *Lane) InFlight() int { return l.inFlight }

// Engine is the lane's engine.
func (l *Lane) Engine() engine.Engine { return l.eng }

// Mailed says whether another goroutine has handed a request back that Done has not
// looked at yet.
func (l *Lane) Mailed() bool { return l.full.Load() }

// WakeFD is the eventfd that can be read when the worker has to look: see Sleep.
func (l *Lane) WakeFD() int { return l.wakeFD }

// Forget has n requests count as returned that never will be: tests of killed daemons
// drop them.
func (l *Lane) Forget(n int) { l.inFlight -= n }

// Err is why no more I/O can be started on the lane, nil while it can: the kernel has
// refused to take any, for a reason that nothing is known to be done about. What is in
// flight still ends.
func (l *Lane) Err() error { return l.eng.Err() }

// Arm asks for a wake-up. The worker calls it before Sleep and then looks at Done
// once more, since what finished before is not reported.
func (l *Lane) Arm() { l.armed.Store(true) }

// Disarm ends what Arm began, without a sleep.
func (l *Lane) Disarm() { l.armed.Store(false) }

// Sleep waits after Arm until something happened on the lane, someone called
// Wake, or fd, unless it is -1, can be read: then it is true.
func (l *Lane) Sleep(fd int) (readable bool) {
	l.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	l.poll[1] = unix.PollFd{Fd: int32(l.wakeFD), Events: unix.POLLIN}
	l.eng.Wait(l.poll[:])
	l.armed.Store(false)
	// It can also be readable from a wake-up that came too late for the last Sleep.
	if l.poll[1].Revents != 0 {
		_, _ = unix.Read(l.wakeFD, l.drain[:])
	}
	return l.poll[0].Revents != 0
}

// Wake makes a sleeping worker look. Any goroutine may call it, even after Close.
func (l *Lane) Wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wake()
}

func (l *Lane) wake() {
	if l.armed.Swap(false) {
		_, _ = unix.Write(l.wakeFD, wakeUp[:])
	}
}

// A starter has begun something that waits until its lane has all of a batch.
type starter interface{ Begin(l *Lane) }

// StartLater has s begin with the next Start.
func (l *Lane) StartLater(s starter) { l.starters = append(l.starters, s) }

// Post hands r to its lane's worker, which calls Continue for it. Any goroutine
// may call it.
func (r *Request) Post() {
	l := r.Lane
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mail.Push(r)
	l.full.Store(true)
	l.wake() // under the lock: see Close
}

// Deliver ends r with err, from any goroutine.
func (r *Request) Deliver(err error) {
	r.Err, r.over = err, true
	r.Post()
}

// StartIO starts r.io, on r's own lane.
func (r *Request) StartIO() { r.Lane.eng.Queue(&r.IO) }

// Finish ends r with err, on its lane's own worker.
func (r *Request) Finish(err error) {
	r.Err = err
	if r.Fault != nil && r.Fault.late != nil && r.disk.Faults().hold(r) {
		return
	}
	r.Lane.done.Push(r)
}

// Close gives the lane's resources back. No request may be in flight.
func (l *Lane) Close() error {
	err := l.eng.Close()
	// Whoever posted the last request may still be about to wake us. Its write
	// must not go to what has the descriptor's number next: that may be a disk.
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed.Store(false)
	return errors.Join(err, unix.Close(l.wakeFD))
}

// List is a singly linked list of requests, first in, first out.
type List struct{ Head, Tail *Request }

// Push puts r at the end. A request is in one list at most.
func (l *List) Push(r *Request) {
	r.Next = nil
	if l.Tail == nil {
		l.Head = r
	} else {
		l.Tail.Next = r
	}
	l.Tail = r
}

// PushFront puts r at the front.
func (l *List) PushFront(r *Request) {
	if r.Next = l.Head; l.Head == nil {
		l.Tail = r
	}
	l.Head = r
}

// Pop takes the first request out, and is nil when there is none.
func (l *List) Pop() *Request {
	r := l.Head
	if r == nil {
		return nil
	}
	if l.Head = r.Next; l.Head == nil {
		l.Tail = nil
	}
	r.Next = nil
	return r
}

// CarryOut submits r and waits until it is done.
func (l *Lane) CarryOut(d Disk, r *Request) error {
	l.Submit(d, r)
	l.Start()
	for l.Done() == nil {
		l.Arm()
		if l.Done() != nil {
			l.Disarm()
			break
		}
		l.Sleep(-1)
	}
	return r.Err
}
