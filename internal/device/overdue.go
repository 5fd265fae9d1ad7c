package device

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zvhost/zvhost/backend/disk"
)

// overdue logs requests that the disk has not answered for longer than patience, even if
// nothing else waits for them: a file system that is frozen, full or out of reach shows
// nowhere else. The worker of the queue may itself be blocked in a system call, so another
// goroutine looks.
//
// A request is dated by the round in which it was taken: a clock would be read for each.
// The worker shows what it has added and done batch by batch: an atomic store for each
// waits for all stores to guest memory before it, and was 12 % of the worker's own time.
type overdue struct {
	queue  int
	round  atomic.Uint32 // how often look was called, from 1 on
	hidden []datedTag    // the worker's: what was not shown yet
	begun  bool          // likewise: the first request of the batch was shown
	mu     sync.Mutex    // guards taken, with nothing that waits
	taken  []uint32      // by tag: round << opBits | operation; 0: not in flight
	logged bool          // the requests that are overdue now are logged
	warn   func(format string, args ...any)
	inform func(format string, args ...any)
}

// A datedTag is a new entry of taken.
type datedTag struct{ tag, taken uint32 }

const (
	opBits = 8
	// rounds is in how many rounds patience passes.
	rounds     = 2
	roundsMask = 1<<(32-opBits) - 1 // they begin anew behind it, after a year: only differences count
)

func newOverdue(w *worker) *overdue {
	o := &overdue{queue: w.index, taken: make([]uint32, w.requests.tags()), warn: w.dev.log.Warnf, inform: w.dev.log.Infof}
	o.round.Store(1)
	return o
}

// add notes that a request goes to the disk, and done that it is answered. The worker
// calls them. The first request of a batch is shown before it goes there, for the worker
// may be stuck with it.
func (o *overdue) add(tag uint32, op disk.Op) {
	o.hidden = append(o.hidden, datedTag{tag, o.round.Load()<<opBits | uint32(op)})
	if !o.begun {
		o.show()
		o.begun = true
	}
}
func (o *overdue) done(tag uint32) { o.hidden = append(o.hidden, datedTag{tag, 0}) }

// show ends a batch: look sees what was added and done. The worker calls it before it
// waits for anything but the disk's taking the batch.
func (o *overdue) show() {
	o.begun = false
	if len(o.hidden) == 0 {
		return
	}
	o.mu.Lock()
	for _, d := range o.hidden {
		o.taken[d.tag] = d.taken
	}
	o.mu.Unlock()
	o.hidden = o.hidden[:0]
}

// start starts a goroutine that looks until stop is called.
func (o *overdue) start(patience time.Duration) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(max(patience/rounds, time.Millisecond))
		defer t.Stop()
		for {
			select {
			case <-t.C:
				o.look(patience)
			case <-over:
				return
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

// look begins another round. It logs overdue requests once, until there are none.
func (o *overdue) look(patience time.Duration) {
	now := o.round.Load()
	count, age, op := 0, uint32(0), disk.Op(0)
	o.mu.Lock()
	for _, t := range o.taken {
		if t == 0 {
			continue
		}
		if d := (now - t>>opBits) & roundsMask; d >= rounds {
			if count++; d >= age {
				age, op = d, disk.Op(t&(1<<opBits-1))
			}
		}
	}
	o.mu.Unlock()
	switch {
	case count > 0 && !o.logged:
		what := fmt.Sprintf("a request (%v)", op)
		if count > 1 {
			what = fmt.Sprintf("%d requests (the oldest: %v)", count, op)
		}
		o.warn("queue %d: %s waits for the disk, which has not answered for %v: look after the disk (is its file system frozen, full or out of reach?)", o.queue, what, patience)
		o.logged = true
	case count == 0 && o.logged:
		o.inform("queue %d: the disk has answered the overdue requests", o.queue)
		o.logged = false
	}
	if now = (now + 1) & roundsMask; now == 0 {
		now = 1
	}
	o.round.Store(now)
}
