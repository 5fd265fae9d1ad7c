package daemon

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio"
)

// pickUp goes on where the record of requests in flight says that another process
// has left the ring; in a ring that nobody has served it does nothing. What was in
// flight is submitted again, in the order in which it came. spoiled is why no more can
// be taken from the ring, while what is in flight can be answered.
func (w *worker) pickUp() (spoiled, err error) {
	// Whatever the record says by now, or becomes of this: nobody comes for the rest.
	defer func() { w.dev.release(w.claimed) }()
	w.rec.SetUser(w.dev.user)
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
		r.Mark = (*backend.Mark)(w.rec.Mark(head))
		carry := w.dev.Decode(r) && !w.doubtful(r)
		if carry && !room {
			carry, r.Err = false, errGivenUp
		}
		if carry {
			w.overdue.add(r.Tag, r.Op)
			w.lane.Resume(w.dev.disk, &r.Request)
			continue
		}
		backend.Release(w.dev.disk, r.Mark)
		w.complete(r)
	}
	failpoint.Hit(failpoint.PickedUp)
	if w.doubts && spoiled == nil { // what waits as well, before the driver hears of any of it
		_, spoiled = w.take()
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
var errGivenUp = fmt.Errorf("%w: the queue was stopped before all that was in flight in it could be taken up again", backend.ErrIO)

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
			w.dev.release(w.claimed)
			w.claimed = nil
			return false
		default:
			w.lane.Sleep(-1)
		}
	}
	return true
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

// Adopt implements vhostuser.Device.
func (d *Device) Adopt(r *vhostuser.Record) {
	d.disown()
	d.hearCache(r)
	d.custody.kept, d.records = nil, r
	switch {
	case r == nil:
		return // without a look at the disk, which may hang
	case d.custody.away:
		d.custody.kept = r // no queue starts before the disk is taken
		return
	}
	run := backend.Run(d.disk)
	var ours []*backend.Mark
	for i := range r.Rings() {
		ring := r.Ring(i)
		var marks []*backend.Mark
		for _, m := range ring.InFlight() {
			marks = append(marks, (*backend.Mark)(m))
		}
		if user := ring.User(); user == run {
			d.user, d.known = run, true // nobody else has used the disk since
			ours = append(ours, marks...)
		} else {
			backend.Claim(d.disk, user, marks)
		}
		if len(marks) > 0 {
			d.claimed[i] = marks
		}
	}
	backend.Claim(d.disk, run, ours) // at once: it takes their order to find their places
}

// begin makes a session that does not go on with another one's requests a new
// user of the disk.
func (d *Device) begin() error {
	if d.known {
		return backend.Begin(d.disk)
	}
	var err error
	d.user, err = backend.Renew(d.disk)
	d.known = err == nil
	return err
}

// Reset implements vhostuser.Device.
func (d *Device) Reset() {
	d.disown()
	if d.known { // its session is over, and nobody goes on with another one's
		clear(d.unclean)
	}
	d.user, d.known, d.records = 0, false, nil
	d.custody.kept, d.custody.tried = nil, false
	d.faulty.broken.Store(false)
	d.faulty.missing.Store(false)
	d.Blk.Reset()
}

// Leave implements vhostuser.Device.
func (d *Device) Leave() {
	for i, marks := range d.claimed {
		for _, m := range marks {
			backend.Unclaim(d.disk, m)
		}
		delete(d.claimed, i)
	}
}

// disown gives up what was claimed for queues that were not started, and says whether
// there was something.
func (d *Device) disown() (some bool) {
	for i, marks := range d.claimed {
		d.release(marks)
		delete(d.claimed, i)
		some = true
	}
	return some
}

// release gives up what is still claimed for marks.
func (d *Device) release(marks []*backend.Mark) {
	for _, m := range marks {
		backend.Release(d.disk, m)
	}
}
