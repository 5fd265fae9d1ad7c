package device

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/internal/recovery"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
)

// pickUp continues the ring where the in-flight record says that the previous process has
// stopped; in a ring that no process has served it does nothing. It submits the requests in
// flight again, in order of arrival. spoiled is the reason why the worker can pop no more
// from the ring, though it can answer what is in flight.
func (w *worker) pickUp() (spoiled, err error) {
	// Whatever the record says by now, or the outcome: no process will resume the rest.
	defer w.recovery.ReleaseClaims()
	w.rec.SetUser(w.dev.recovery.User())
	heads, retake, err := w.begin()
	if err != nil {
		return nil, err
	}
	for _, head := range heads {
		room := w.makeRoom()
		r := w.requests.next()
		if err := retake(head, &r.Chain); errors.Is(err, virtio.ErrNoAnswer) {
			spoiled = err // the others are answered first
			continue
		} else if err != nil {
			return nil, err
		}
		w.requests.take(r)
		r.Note = (*disk.Note)(w.rec.Mark(head))
		carry := w.dev.Decode(r) && w.recovery.InFlight(r) != recovery.Refuse
		if carry && !room {
			carry, r.Err = false, errGivenUp
		}
		if carry {
			w.overdue.add(r.Tag, r.Op)
			w.lane.Resume(w.dev.disk, &r.Request)
			continue
		}
		disk.Release(w.dev.disk, r.Note)
		w.complete(r)
	}
	failpoint.Hit(failpoint.PickedUp)
	if w.recovery.MayHaveRun() && spoiled == nil { // refuse what waits as well, before the driver sees an answer
		_, spoiled = w.popBatch()
	}
	if len(heads) > 0 {
		w.overdue.show()
		w.lane.Start()
		w.publish()
	}
	// The previous process may have died between publishing an answer and the notification.
	w.call()
	return spoiled, nil
}

// errGivenUp is the error of a request that was in flight in the previous process, if this
// one stops the queue before it has room to resume it.
var errGivenUp = fmt.Errorf("%w: the queue was stopped before all that was in flight in it could be resumed", disk.ErrIO)

// makeRoom answers requests until another one may be in flight: a record may list more
// of them than a worker pops from a ring. It returns false if the worker is to stop
// meanwhile: the requests that it waits for may wait for claims of requests that were not
// resumed, so those claims are released.
func (w *worker) makeRoom() bool {
	if !w.requests.full() {
		return true
	}
	w.overdue.show()
	w.lane.Start()
	for w.requests.full() {
		w.lane.Arm()
		switch {
		case w.answer() > 0:
			w.lane.Disarm()
		case w.stopping.Load():
			w.lane.Disarm()
			w.recovery.ReleaseClaims()
			return false
		default:
			w.lane.Sleep(-1)
		}
	}
	return true
}

// begin opens the ring's part of the record and moves the queue to the point that it names.
// heads are the heads of the chains in flight, and retake reads one of them again.
func (w *worker) begin() (heads []uint16, retake func(head uint16, c *virtio.Chain) error, err error) {
	switch q := w.queue.(type) {
	case *virtio.Split:
		var base uint16
		if base, heads, err = w.rec.Begin(w.ring.Start(), q.Used()); err == nil {
			q.Rebase(base)
		}
		return heads, q.Retake, err
	case *virtio.Packed:
		var base uint32
		if base, heads, err = w.rec.BeginPacked(w.ring.Start(), q.Passed); err == nil {
			err = q.Rebase(base)
		}
		q.KeepRaw()
		w.packed = q
		return heads, func(id uint16, c *virtio.Chain) error { return q.Retake(id, w.rec.Held(id), c) }, err
	}
	panic(fmt.Sprintf("device: a queue of an unknown format, %T", w.queue))
}

// Adopt implements transport.Device.
func (d *Device) Adopt(r *inflight.Record) {
	d.readCacheNote(r)
	if r != nil && d.custody.detached {
		d.recovery.Postpone(r) // no queue starts before the disk is acquired
		return
	}
	d.recovery.Adopt(r)
}

// Reset implements transport.Device.
func (d *Device) Reset() {
	d.recovery.Reset()
	d.custody.tried = false
	d.faulty.broken.Store(false)
	d.faulty.missing.Store(false)
	d.Blk.Reset()
}

// Leave implements transport.Device.
func (d *Device) Leave() { d.recovery.Leave() }
