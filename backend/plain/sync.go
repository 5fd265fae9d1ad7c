package plain

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/plant"
)

// sync ends r once all that was done before is durable. One sync is under way at a
// time, for of two that are told of data that is lost the kernel tells one. It may
// have begun before what r has to cover was written, so r waits for the next one,
// which is everybody's who waits by then.
func (p *Disk) sync(r *request) {
	if p.lost.Load() != nil {
		p.answer(r)
		return
	}
	p.syncing.Lock()
	wait := p.busy
	if wait {
		p.waiting.Push(r.Request)
	}
	p.busy = true
	p.syncing.Unlock()
	if !wait {
		p.lead(r)
	}
}

// lead begins a sync for r and for those that wait, on r's lane.
func (p *Disk) lead(r *request) {
	p.syncing.Lock()
	r.sharers, p.waiting = p.waiting, disk.List{}
	p.syncing.Unlock()
	r.IO.Code, r.IO.FD, r.IO.Off, r.IO.Len, r.step = engine.Fdatasync, p.syncFD, 0, 0, stepSynced
	r.StartIO()
}

// synced goes on when the sync that r led has ended: those that it was for have
// their answers, and the first of those who have come since leads the next one.
func (p *Disk) synced(r *request) {
	err := r.IO.Err
	if err == nil {
		_ = p.size.Look() // answer asks what it has found
	} else {
		lost := err // of its own, or every err would be allocated
		p.lost.Store(&lost)
	}
	p.syncing.Lock()
	for err != nil && p.waiting.Head != nil {
		r.sharers.Push(p.waiting.Pop()) // no other sync will do for them
	}
	next := p.waiting.Pop()
	p.busy = next != nil
	p.syncing.Unlock()
	if next != nil {
		requestOf(next).step = stepLead
		next.Post()
	}
	for q := r.sharers.Pop(); q != nil; q = r.sharers.Pop() {
		requestOf(q).step = stepShared
		q.Post()
	}
	if err != nil {
		p.fail(r, fmt.Errorf("%w: %w", disk.ErrIO, err))
		return
	}
	p.answer(r)
}

// answer ends r, with success unless any sync has failed: that one may have been
// told of what r covers.
func (p *Disk) answer(r *request) {
	if err := p.failed(); err != nil && !plant.ReportedOnce {
		p.fail(r, err)
		return
	}
	r.Finish(nil)
}

// Lose has every sync fail from now on, as one does after the kernel has reported lost
// data with err.
func (p *Disk) Lose(err error) { p.lost.Store(&err) }

// failed is why no sync can succeed any more, nil as long as one can.
func (p *Disk) failed() error {
	if lost := p.lost.Load(); lost != nil {
		return fmt.Errorf("%w: %w", disk.ErrIO, disk.LostData(*lost))
	}
	return p.size.Failed()
}
