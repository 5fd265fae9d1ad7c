package disktest

import (
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/iovec"
)

// A HeldEngine carries out Ops when the test says so, in the order that the
// test wants, and breaks those that the test wants broken. It belongs to the
// test's goroutine, as an engine does to its worker.
type HeldEngine struct {
	under    *engine.Threads
	staged   []*engine.Op
	Held     []*engine.Op // in the order in which they were submitted
	finished []*engine.Op
	// Hold says which Ops wait to be released; the others are done at Submit.
	Hold func(*engine.Op) bool
	// Fault says how an Op ends that is done at Submit.
	Fault func(*engine.Op) OpFault
}

// An OpFault is how an Op ends: after N bytes with Err. No error, no fault.
type OpFault struct {
	N   int64
	Err error
}

// NewHeldEngine returns an engine that holds the Ops for which hold returns true; nil holds
// none.
func NewHeldEngine(hold func(*engine.Op) bool) *HeldEngine {
	return &HeldEngine{under: engine.NewThreads(1, func() {}), Hold: hold}
}

// IsWritev reports whether op writes data. A HeldEngine takes it to hold all writes.
func IsWritev(op *engine.Op) bool { return op.Code == engine.Writev }

// Queue implements engine.Engine.
func (e *HeldEngine) Queue(op *engine.Op) { e.staged = append(e.staged, op) }

// Submit implements engine.Engine.
func (e *HeldEngine) Submit() {
	staged := e.staged
	e.staged = nil
	for _, op := range staged {
		switch {
		case e.Hold != nil && e.Hold(op):
			e.Held = append(e.Held, op)
		case e.Fault != nil:
			e.run(op, e.Fault(op))
		default:
			e.run(op, OpFault{})
		}
	}
}

// run carries op out with the given fault, and finishes it.
func (e *HeldEngine) run(op *engine.Op, f OpFault) {
	if f.Err == nil || f.N > 0 {
		iov, n := op.Iov, op.Len
		if f.Err != nil {
			op.Iov, op.Len = iovec.AppendHead(nil, op.Iov, uint64(f.N)), f.N
		}
		e.under.Queue(op)
		e.under.Submit()
		for e.under.Reap() == nil {
			runtime.Gosched()
		}
		op.Iov, op.Len = iov, n
	} else {
		op.N = 0
	}
	if f.Err != nil {
		op.Err = f.Err
	}
	e.finished = append(e.finished, op)
}

// Release carries out what is held at index i, with the given fault.
func (e *HeldEngine) Release(i int, f OpFault) {
	op := e.Held[i]
	e.Held = slices.Delete(e.Held, i, i+1)
	e.run(op, f)
}

// Wait implements engine.Engine.
func (e *HeldEngine) Wait(fds []unix.PollFd) { engine.Poll(fds) }

// Err implements engine.Engine.
func (e *HeldEngine) Err() error { return nil }

// Reap implements engine.Engine.
func (e *HeldEngine) Reap() *engine.Op {
	if len(e.finished) == 0 {
		return nil
	}
	op := e.finished[0]
	e.finished = e.finished[1:]
	return op
}

// Close implements engine.Engine. It returns the error of the engine below.
func (e *HeldEngine) Close() error { return e.under.Close() }

// HeldClient returns a client with a HeldEngine, and that engine.
func HeldClient(t TB, d disk.Disk, hold func(*engine.Op) bool) (*Client, *HeldEngine) {
	t.Helper()
	e := NewHeldEngine(hold)
	return NewClientOn(t, d, func(func()) (engine.Engine, error) { return e, nil }), e
}

// ReleaseAll carries out all Ops that are held, in order, without faults.
func (c *Client) ReleaseAll(e *HeldEngine) {
	c.Lane.Start()
	for len(e.Held) > 0 {
		e.Release(0, OpFault{})
	}
}

// WriteUnheld writes through a HeldEngine without holding the write.
func (c *Client) WriteUnheld(e *HeldEngine, sector uint64, data []byte) error {
	hold := e.Hold
	e.Hold = nil
	defer func() { e.Hold = hold }()
	return c.Write(sector, data)
}

// AppendEach submits n appends of 4 KiB to the zone that starts at sector, filled
// with 'a', 'b' and so on, all in flight at once, and returns them.
func (c *Client) AppendEach(e *HeldEngine, sector uint64, n int) []*disk.Request {
	c.T.Helper()
	var rs []*disk.Request
	for i := range n {
		rs = append(rs, NewRequest(disk.OpAppend, sector, Pattern(byte('a'+i), 4096)))
	}
	held := len(e.Held)
	c.Submit(rs...)
	Await(c.T, func() bool { // at once, unless the zone's reset is still on its way
		c.WantNothingDone("it is held")
		return len(e.Held) == held+n
	})
	return rs
}
