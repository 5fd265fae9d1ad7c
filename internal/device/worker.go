package device

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/recovery"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A worker serves one queue: it pops requests from the ring in batches, submits them to the
// disk on a lane of its own, and answers those that are done, all on one goroutine with its
// own thread. A request costs no allocation and no other goroutine.
type worker struct {
	dev    *Device
	index  int
	notify sync.Mutex // guards ring.Call, ring.Err and bad, with nothing that waits
	bad    bool       // the ring is broken
	ring   transport.Ring
	queue  virtio.Queue
	lane   *disk.Lane
	// recovery decides which requests of the ring may be carried out.
	recovery *recovery.Ring
	rec      *inflight.Ring // the in-flight record; nil: no later process will resume the requests
	// packed is queue, where that is a packed one and there is a record.
	packed *virtio.Packed

	requests *requestTable

	poll       poller
	ioBound    bool    // the last sleep was for I/O
	kicks      [8]byte // the count of the kick eventfd; unused
	vain       int     // kicks in a row for which nothing was found; see sleep
	loggedVain bool    // that vain has reached its limit is logged
	stopping   atomic.Bool
	left       atomic.Int32 // requests in flight when it last went to sleep
	overdue    *overdue
	started    chan error
	goes       chan struct{} // receives when it may serve; closed: it must stop
	stopped    chan struct{}
}

func newWorker(d *Device, index int, r transport.Ring) *worker {
	w := &worker{
		dev:      d,
		index:    index,
		ring:     r,
		rec:      r.Record,
		recovery: d.recovery.Ring(index),
		poll:     poller{max: d.pollMax},
		requests: newRequestTable(r.Size),
		started:  make(chan error, 1),
		goes:     make(chan struct{}, 1),
		stopped:  make(chan struct{}),
	}
	w.overdue = newOverdue(w)
	return w
}

// start starts the worker, or returns why the ring cannot be served.
func (w *worker) start() error {
	go w.run()
	return <-w.started
}

func (w *worker) run() {
	defer close(w.stopped)
	// An engine's ring belongs to the thread that makes it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	debug.SetPanicOnFault(true) // for what handles a fault itself, also behind Guard: iovec.Zero and its like, and the live table

	if err := w.open(); err != nil {
		w.started <- fmt.Errorf("queue %d: %w", w.index, err)
		return
	}
	w.started <- nil
	defer w.overdue.start(w.dev.patience)()
	if err := guestmem.Guard(w.serve, w.ring.Mem, w.ring.Log, w.rec); err != nil {
		w.broken(err)
		// Answers cannot be given any more, but nothing may be left in flight.
		for w.lane.InFlight() > 0 {
			w.lane.Arm()
			if w.lane.Done() == nil {
				w.lane.Sleep(-1)
				continue
			}
			w.lane.Disarm()
		}
	}
	if err := w.lane.Close(); err != nil {
		w.dev.log.Warnf("queue %d: closing its engine: %v", w.index, err)
	}
}

// open makes the lane and begins with the ring.
func (w *worker) open() (err error) {
	if w.lane, err = disk.NewLane(w.dev.engine); err != nil {
		return err
	}
	w.lane.QuitOn(&w.dev.abandoned)
	if err := guestmem.Guard(w.openRing, w.ring.Mem); err != nil {
		return errors.Join(err, w.lane.Close())
	}
	return nil
}

func (w *worker) openRing() error {
	q, err := virtio.NewQueue(virtio.RingConfig{
		Size: w.ring.Size, Desc: w.ring.Desc, Avail: w.ring.Avail, Used: w.ring.Used,
		Base: w.ring.Base, Features: w.ring.Features, Mem: w.ring.Mem,
		Log: w.ring.Log, UsedLog: w.ring.UsedLog, Answers: true,
	})
	if err == nil {
		w.queue = q
	}
	return err
}

// serve goes round until the worker is stopped, or the ring broken, and nothing
// is in flight. An error means that not even answers can be given any more.
func (w *worker) serve() error {
	if _, ok := <-w.goes; !ok {
		return nil
	}
	if w.rec != nil {
		spoiled, err := w.pickUp()
		switch {
		case err != nil:
			return err
		case spoiled != nil:
			w.broken(spoiled)
			w.finish()
			return nil
		}
	}
	w.queue.EnableKicks()
	var idle time.Time // since when there is nothing to do; zero: there is
	for {
		if err := w.lane.Err(); err != nil {
			w.broken(fmt.Errorf("the kernel carries out no more of its I/O: %w", err))
			w.finish()
			return nil
		}
		taken := 0
		if !w.stopping.Load() {
			w.queue.DisableKicks()
			var err error
			if taken, err = w.popBatch(); err != nil {
				// What was taken before the ring broke is still answered.
				w.broken(err)
				w.finish()
				return nil
			}
		}
		if w.answer()+taken > 0 {
			idle, w.vain = time.Time{}, 0
			continue
		}
		if w.linger(&idle) {
			continue
		}
		// Nothing to do: ask for a kick and a wake-up, look once more, sleep.
		w.lane.Arm()
		stopping := w.stopping.Load()
		switch {
		case stopping && w.lane.InFlight() == 0:
			return nil
		case !stopping && !w.dev.abandoned.Load() && !w.requests.full() && w.queue.EnableKicks(), w.answer() > 0:
			w.lane.Disarm()
			continue
		}
		w.ioBound = w.lane.InFlight() > 0
		w.left.Store(int32(w.lane.InFlight()))
		w.sleep()
		if !idle.IsZero() {
			w.poll.slept(time.Since(idle))
			idle = time.Time{}
		}
	}
}

// linger reports whether to look again before sleeping, because more work may arrive at any
// moment. It yields the processor to other threads: the front-end may need it to submit that
// work.
//
// Where the disk takes long enough to sleep for it, looking for the guest's next
// request changes little: on an ext4 file past the page cache at depth 1 it took 1.3
// to 1.9 times the processor for no more requests; on one in memory it answers
// twice as many.
func (w *worker) linger(idle *time.Time) bool {
	if w.ioBound || w.lane.InFlight() > 0 || w.stopping.Load() {
		return false
	}
	if idle.IsZero() {
		*idle = time.Now()
		return w.poll.worthwhile(0)
	}
	if !w.poll.worthwhile(time.Since(*idle)) {
		return false
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	return true
}

// burst is how many requests are taken at once where they are answered at once: a
// front-end that sleeps wakes up for the first while the others are still under way.
// At depth 32 this made 1.9 times as many reads of a file in memory as batches of
// all 32 (4 made 1.4 times, 16 1.5 times), and 2.0 times as many without storage, at
// half the processor time. Where a disk is waited for it would only be more system
// calls.
const burst = 8

// popBatch pops what is available, a burst or a ring's worth at the most, and submits
// it.
func (w *worker) popBatch() (taken int, err error) {
	most := w.ring.Size
	if w.lane.InFlight() == 0 && !w.ioBound && !w.recovery.MayHaveRun() { // all that waits now is refused in one batch
		most = min(most, burst)
	}
	short := false // there may be more
	for range most {
		// The front-end may be dead; and a ring full of malformed chains takes long to look
		// through (virtio/answer.go), which would delay a queue that is to stop.
		if short = w.requests.full() || w.stopping.Load() || w.dev.abandoned.Load(); short {
			break
		}
		r := w.requests.next()
		ok, perr := w.queue.Pop(&r.Chain)
		if perr != nil || !ok {
			err = perr
			break
		}
		taken++
		w.requests.take(r)
		if w.rec != nil {
			if w.packed != nil {
				w.rec.Hold(r.Chain.Head, w.packed.Raw())
			}
			r.Note = (*disk.Note)(w.rec.Take(r.Chain.Head))
		}
		if w.dev.Decode(r) && w.recovery.Waiting(r) != recovery.Refuse {
			w.overdue.add(r.Tag, r.Op)
			w.lane.Submit(w.dev.disk, &r.Request)
			continue
		}
		w.complete(r)
	}
	if w.recovery.MayHaveRun() && err == nil && !short {
		w.recovery.Settle()
	}
	if taken > 0 {
		w.overdue.show()
		w.lane.Start()
		w.publish()
	}
	return taken, err
}

// answer completes what is done and returns how much that was.
func (w *worker) answer() (n int) {
	for r := w.lane.Done(); r != nil; r = w.lane.Done() {
		w.complete(w.requests.at(r.Tag))
		n++
	}
	if n > 0 {
		w.overdue.show()
		w.publish()
	}
	return n
}

func (w *worker) complete(r *virtio.BlkRequest) {
	err := r.Err
	if err != nil && errors.Is(err, engine.ErrQuit) {
		// It was not carried out, and stays in flight in the record: the next process may resume it.
		w.requests.put(r)
		w.overdue.done(r.Tag)
		return
	}
	if err == nil {
		err = r.Chain.Err
	}
	if err != nil {
		w.dev.failed(fmt.Errorf("queue %d: %w", w.index, err))
		w.dev.logMissingMemory(w.index, w.ring.NoMemory, err)
	}
	written := r.Complete()
	if w.rec != nil {
		w.rec.Push(r.Chain.Head)
	}
	w.queue.Push(r.Chain.Head, written)
	w.requests.put(r)
	w.overdue.done(r.Tag)
}

func (w *worker) publish() {
	if w.queue.Publish() {
		w.call()
	}
	if w.ring.Log != nil {
		signalFD(w.ring.LogCall)
	}
	if w.rec != nil {
		w.rec.Published()
	}
}

// finish answers all that is in flight.
func (w *worker) finish() {
	for {
		w.lane.Arm()
		if w.answer() == 0 && w.lane.InFlight() > 0 {
			w.lane.Sleep(-1)
			continue
		}
		w.lane.Disarm()
		if w.lane.InFlight() == 0 {
			return
		}
	}
}
