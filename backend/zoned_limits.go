package backend

import (
	"runtime"

	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/plant"
)

// enterLocked moves zone z, whose lock is held, to state to, and accounts for its
// resources. Where the open zones are used up an implicitly open one is closed,
// the oldest first. On an error nothing has changed.
func (d *zoned) enterLocked(z *seqZone, i int, to zone.State) error {
	if z.state == to {
		return nil
	}
	d.res.mu.Lock()
	defer d.res.mu.Unlock()
	for {
		err := d.res.Move(z.state, to)
		if err == nil {
			break
		}
		if err != zone.ErrOpenLimit || d.res.implicit.oldestLocked() < 0 {
			return err
		}
		if !d.closeOldestLocked() {
			// Every candidate is locked by someone who is about to be done with
			// it, or waits for res.mu.
			d.res.mu.Unlock()
			runtime.Gosched()
			d.res.mu.Lock()
		}
	}
	if z.state == zone.ImpOpen {
		d.res.implicit.removeLocked(i)
	}
	gives := z.state.IsOpen() && !to.IsOpen() || z.state.IsActive() && !to.IsActive()
	z.state = to
	if gives {
		// Before anyone can take what it gives back: the tables must never show
		// more zones open or active than there may be, not to a kill -9 either.
		// If it fails, the caller's publish does too, and says so.
		d.publishLocked(z, i)
	}
	if to == zone.ImpOpen {
		d.res.implicit.addLocked(i)
	}
	return nil
}

// closeOldestLocked closes an implicitly open zone. res.mu is held; zones are locked
// before it, so here they can only be tried.
func (d *zoned) closeOldestLocked() bool {
	for i := d.res.implicit.oldestLocked(); i >= 0; i = d.res.implicit.afterLocked(i) {
		v := &d.zones[i]
		if !v.mu.TryLock() {
			continue
		}
		_ = d.res.Move(zone.ImpOpen, zone.Closed) // gives a resource back, so it cannot fail
		d.res.implicit.removeLocked(i)
		v.state = zone.Closed
		d.publishLocked(v, i)
		v.mu.Unlock()
		return true
	}
	return false
}

// publishLocked makes z's state, whose lock is held, what guests see, what a kill -9
// leaves, and what the next commit makes durable. It reports false when the
// table cannot be stored.
func (d *zoned) publishLocked(z *seqZone, i int) bool {
	w := zone.Pack(i, z.state, z.done)
	if w == zone.Entry(z.word.Load()) {
		return true
	}
	if plant.LostPointer && z.done%5 == 3 {
		z.word.Store(uint64(w)) // guests see it, the next daemon does not
		return true
	}
	if !d.img.Live.Store(i, w) {
		d.broken.Store(true)
		_ = d.img.Size.Look() // that would be why
		return false
	}
	z.word.Store(uint64(w))
	d.com.mark(i)
	return true
}
