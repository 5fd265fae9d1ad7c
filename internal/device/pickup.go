package device

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
)

// pickUp goes on where the record of requests in flight says that another process
// has left the ring; in a ring that nobody has served it does nothing. What was in
// flight is submitted again, in the order in which it came. spoiled is why no more can
// be taken from the ring, while what is in flight can be answered.
func (w *worker) pickUp() (spoiled, err error) {
	// Whatever the record says by now, or becomes of this: nobody comes for the rest.
	defer func() { w.dev.recovery.Release(w.claimed) }()
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
		carry := w.dev.Decode(r) && !w.refuses(r)
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
	if w.mayHaveRun && spoiled == nil { // what waits as well, before the driver hears of any of it
		_, spoiled = w.popBatch()
	}
	if len(heads) > 0 {
		w.overdue.show()
		w.lane.Start()
		w.publish()
	}
	// Whoever was here may have died between an answer and its call.
	w.call()
	return spoiled, nil
}

// errGivenUp is what a request gets that another process had taken, and this one was
// told to stop before it had room for it.
var errGivenUp = fmt.Errorf("%w: the queue was stopped before all that was in flight in it could be taken up again", disk.ErrIO)

// makeRoom answers requests until another one may be in flight: a record may name more
// of them than are taken from a ring. It is false when the worker is to stop meanwhile:
// those that it waits for may wait for what has not been taken up, which is released.
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
			w.dev.recovery.Release(w.claimed)
			w.claimed = nil
			return false
		default:
			w.lane.Sleep(-1)
		}
	}
	return true
}

// refuses says whether r must not be carried out: it was waiting when the ring was started,
// and may have run. What was in flight then is waiting now, or was taken by a process that
// died before it could say no.
func (w *worker) refuses(r *virtio.BlkRequest) bool {
	return w.mayHaveRun && w.dev.recovery.Refuse(r)
}

// begin begins with the record, and puts the queue where it says. heads are those
// of what is in flight, and retake takes one of them again.
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
	panic(fmt.Sprintf("daemon: a queue of an unknown format, %T", w.queue))
}

// Adopt implements transport.Device.
func (d *Device) Adopt(r *inflight.Record) {
	d.readCacheNote(r)
	d.custody.kept = nil
	if r != nil && d.custody.detached {
		d.recovery.Postpone(r)
		d.custody.kept = r // no queue starts before the disk is taken
		return
	}
	d.recovery.Adopt(r)
}

// Reset implements transport.Device.
func (d *Device) Reset() {
	d.recovery.Reset()
	d.custody.kept, d.custody.tried = nil, false
	d.faulty.broken.Store(false)
	d.faulty.missing.Store(false)
	d.Blk.Reset()
}

// Leave implements transport.Device.
func (d *Device) Leave() { d.recovery.Leave() }
