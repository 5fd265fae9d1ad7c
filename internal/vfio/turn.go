package vfio

import (
	"time"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vfiouser"
)

// The device is called by one goroutine at a time, and a queue stops when its requests in flight
// are answered, which a slow disk can delay without a limit. A client does not wait that long for
// a reply (QEMU: 5 s). So queues stop in other goroutines; the session's goroutine waits for the
// turn to call the device for Options.ResetWait at most. What it cannot do then it leaves in the
// Function, and whoever ends its turn does it.

// take waits for the turn to call the device. false: it has not come in time, and does not come
// soon.
func (f *Function) take() bool {
	select {
	case f.turn <- struct{}{}:
		return true
	default:
	}
	t := time.NewTimer(f.patience())
	defer t.Stop()
	select {
	case f.turn <- struct{}{}:
		return true
	case <-t.C:
		f.isLate()
		return false
	}
}

const moment = 20 * time.Millisecond

// patience is how long the client may wait for the end of a turn: a moment only if it has waited
// for the same one before.
func (f *Function) patience() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.late {
		return moment
	}
	return f.wait
}

// isLate notes that the client has waited in vain.
func (f *Function) isLate() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late = len(f.turn) > 0 // the turn may have ended just now
}

// takeForSure is for a goroutine that may wait, or where no queue runs that could stop.
func (f *Function) takeForSure() { f.turn <- struct{}{} }

// apply has the device know what f says of queues and vectors: at once, or at the end of the turn
// of another goroutine.
func (f *Function) apply() {
	f.mu.Lock()
	f.stale = true
	mine := false
	select {
	case f.turn <- struct{}{}:
		mine = true
	default:
	}
	f.mu.Unlock()
	if mine {
		f.give()
	}
}

// give ends a turn, once the device knows what has changed meanwhile.
func (f *Function) give() {
	for {
		f.mu.Lock()
		if !f.stale {
			f.late = false
			<-f.turn // with f.mu held: what changes from here on is the next turn's
			f.mu.Unlock()
			return
		}
		f.stale = false
		unused := f.irqs.takeUnused()
		f.mu.Unlock()
		for i := range f.queues {
			f.follow(i)
		}
		for _, e := range unused { // no queue notifies with them any more
			_ = e.Close() // a failed close leaves nothing to do
		}
	}
}

// follow has the device do with queue i what f says: a queue that has been started runs if its
// ring is in memory. One that is not waits for memory that covers it: QEMU replaces a region, for
// example when firmware makes a piece of it read-only, by unmapping it and mapping the parts.
func (f *Function) follow(i int) {
	if err := f.resume(i); err != nil {
		f.warn("queue %d cannot continue: %v", i, err)
		f.pci.NeedsReset()
	}
	f.mu.Lock()
	q := &f.queues[i]
	call := f.irqs.eventfd(q.Vector)
	changed := q.running && call != q.call
	if changed {
		q.call = call
	}
	f.mu.Unlock()
	if !changed {
		return
	}
	f.dev.Notify(i, call.Int(), -1)
	// The queue may have notified the driver through what it had before, or not at all.
	if call != nil {
		foreign.Signal(call.Int())
	}
}

// An exchange has all queues use other memory.
type exchange struct {
	why   string
	unmap []vfiouser.DMA // what is removed
	done  chan struct{}
}

// errInFlight is why memory is not unmapped.
func (f *Function) errInFlight() error {
	return busy("requests in flight, which may use the memory, have not ended within %v", f.opt.ResetWait)
}

// beginLocked begins an exchange.
func (f *Function) beginLocked(why string, unmap []vfiouser.DMA) *exchange {
	x := &exchange{why, unmap, make(chan struct{})}
	f.changing = x
	f.exchanges.Go(func() {
		defer close(x.done)
		f.exchange(x)
	})
	return x
}

// await waits for an exchange for Options.ResetWait at most.
func (f *Function) await(x *exchange) (ended bool) {
	if f.pci.Resetting() {
		f.isLate() // the client has waited for the reset
	}
	t := time.NewTimer(f.patience())
	defer t.Stop()
	select {
	case <-x.done:
		return true
	case <-t.C:
		f.isLate()
		return false
	}
}

// exchange stops all queues, each when the requests that it has taken are answered, changes the
// memory, and has them continue where they have stopped.
func (f *Function) exchange(x *exchange) {
	f.takeForSure()
	defer f.give()
	for i := range f.queues {
		if f.runs(i) {
			f.dev.BeginStop(i)
		}
	}
	for i := range f.queues {
		f.pause(i, x.why)
	}
	f.mu.Lock()
	f.changing = nil
	gone := f.mem.replace(x.unmap)
	f.stale = true
	f.mu.Unlock()
	for _, r := range gone {
		f.mem.unmap(r)
	}
}
