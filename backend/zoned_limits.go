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
		if err != zone.ErrOpenLimit || d.res.oldest == 0 {
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
		d.delistLocked(i)
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
		d.enlistLocked(i)
	}
	return nil
}

// closeOldestLocked closes an implicitly open zone. res.mu is held; zones are locked
// before it, so here they can only be tried.
func (d *zoned) closeOldestLocked() bool {
	for n := d.res.oldest; n != 0; n = d.zones[n-1].newer {
		v := &d.zones[n-1]
		if !v.mu.TryLock() {
			continue
		}
		_ = d.res.Move(zone.ImpOpen, zone.Closed) // gives a resource back, so it cannot fail
		d.delistLocked(int(n - 1))
		v.state = zone.Closed
		d.publishLocked(v, int(n-1))
		v.mu.Unlock()
		return true
	}
	return false
}

// enlistLocked makes zone i the newest of the implicitly open ones. res.mu is held.
func (d *zoned) enlistLocked(i int) {
	n := int32(i + 1)
	z := &d.zones[i]
	z.older, z.newer = d.res.newest, 0
	if d.res.newest == 0 {
		d.res.oldest = n
	} else {
		d.zones[d.res.newest-1].newer = n
	}
	d.res.newest = n
}

// delistLocked takes zone i out of the implicitly open ones. res.mu is held.
func (d *zoned) delistLocked(i int) {
	z := &d.zones[i]
	if z.older == 0 {
		d.res.oldest = z.newer
	} else {
		d.zones[z.older-1].newer = z.newer
	}
	if z.newer == 0 {
		d.res.newest = z.older
	} else {
		d.zones[z.newer-1].older = z.older
	}
	z.older, z.newer = 0, 0
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
