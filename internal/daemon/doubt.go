package daemon

import (
	"fmt"
	"slices"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// errDoubtful is what a request gets that may have been carried out by a daemon
// that died, when nobody has a record of that.
var errDoubtful = fmt.Errorf("%w: another zvhost died and may have carried it out; the front-end has connected anew without the record that would tell (INFLIGHT_SHMFD)", backend.ErrIO)

// packedStart is where a packed ring begins: both wrap counters are 1.
const packedStart = 0x8000_8000

// inMidstream says whether a ring does not begin at its beginning: the driver has
// been using it.
func inMidstream(r *vhostuser.Ring) bool {
	if r.Features&virtio.FeatureRingPacked != 0 {
		return r.Base != packedStart
	}
	return r.Base != 0
}

// A note is what the record says of a ring's doubts, checked.
type note uint64

// What the record notes of a ring, from the first start of any ring on.
const (
	noteNone    note = 0 // nothing that means anything
	noteSettled note = 1 // nothing that waits in it is in doubt
	noteDoubted note = 2 // what waits may have been carried out, and nobody has answered it
)

// parseNote checks what stands in a record, which the front-end can write to. Only
// requests of a zoned disk can be in doubt.
func parseNote(w vhostuser.Untrusted, zoned bool) note {
	switch n := note(w); {
	case !zoned:
		return noteNone
	case n == noteSettled, n == noteDoubted:
		return n
	}
	return noteNone
}

// found notes how the last daemon has left the disk, which was opened just now.
func (d *Device) found(disk backend.Disk) {
	d.begun = false
	for i := range d.unclean {
		d.unclean[i] = backend.Unclean(disk)
	}
}

// doubts says whether what waits in ring i, which starts, may have been carried out by
// a daemon that died. It is so once for each ring of the first session: what comes to
// a ring that is only stopped for a moment is new.
//
// Where there is a record it says so across processes. One that dies must leave what
// was in doubt in doubt, until that is answered; and must not put into doubt what was
// not, by what it does to the disk.
func (d *Device) doubts(i int, r *vhostuser.Ring) bool {
	switch parseNote(r.Record.Note(), d.zoned()) {
	case noteSettled:
		return false
	case noteDoubted:
		return inMidstream(r) || wentRound(r)
	}
	return d.unclean[i] && (inMidstream(r) || wentRound(r))
}

// wentRound says whether a ring that stands at its beginning has come back to it: after
// 65,536 requests, or two laps of a packed ring. Its front-end has connected anew, as
// another ring shows, and a device has used entries of this one; Linux clears a new ring.
// Where no other ring shows that, a driver that does not clear its rings may have made a
// new one, and what it sends first is carried out.
func wentRound(r *vhostuser.Ring) (used bool) {
	if !r.Reconnected || r.Held {
		return false
	}
	err := guestmem.Guard(func() (err error) {
		used, err = hasUsed(r)
		return err
	}, r.Mem)
	return used || err != nil
}

// hasUsed looks for an entry of a ring at its beginning that a device has used.
func hasUsed(r *vhostuser.Ring) (bool, error) {
	nonZero := func(b byte) bool { return b != 0 }
	if r.Features&virtio.FeatureRingPacked == 0 {
		const head, entry = 4, 8 // flags and index, before the entries
		b, err := r.Mem.UserBytes(r.Used, head+entry*uint64(r.Size))
		return err == nil && slices.ContainsFunc(b[head:], nonZero), err
	}
	const desc = 16
	b, err := r.Mem.UserBytes(r.Desc, desc*uint64(r.Size))
	waits := 0
	for ; err == nil && len(b) > 0; b = b[desc:] {
		const avail, used = 1 << 7, 1 << 15 // of the flags, at byte 14
		if flags := uint16(b[14]) | uint16(b[15])<<8; flags&(avail|used) == avail {
			waits++ // available in the first lap, and not used
		} else if slices.ContainsFunc(b[:desc], nonZero) {
			return true, nil
		}
	}
	return waits == int(r.Size), err // nothing to go by
}

// noteDoubts has the record say which rings are in doubt: ring i, which starts, and
// others, where it does not say so yet. That is before the disk is told that requests
// may be in flight.
func (d *Device) noteDoubts(i int, doubts bool) {
	for k := range d.records.Rings() {
		says, r := noteSettled, d.records.Ring(k)
		if k == i && doubts || k != i && d.unclean[k] {
			says = noteDoubted
		}
		if k == i || parseNote(r.Note(), true) == noteNone {
			r.SetNote(uint64(says))
		}
	}
}

// forgetDoubts has the record say nothing of doubts, once somebody else may have the disk:
// what waits may be carried out there.
func (d *Device) forgetDoubts() {
	clear(d.unclean)
	for k := range d.records.Rings() {
		d.records.Ring(k).SetNote(uint64(noteNone))
	}
}

// zoned says whether the disk has zones.
func (d *Device) zoned() bool { return d.disk.Info().Zoned != nil }

// leaveDoubts leaves a disk that nobody has used since a daemon died with it as it was
// found, for the next process.
func (d *Device) leaveDoubts() {
	if !d.begun && slices.Contains(d.unclean, true) {
		backend.LeaveUnclean(d.disk)
	}
}

// doubtful says whether r must not be carried out: it was waiting when the ring was
// started in midstream on a disk whose last daemon died, and would do something
// else the second time. What was in flight then is waiting now, or was taken by a
// process that died before it could say no.
func (w *worker) doubtful(r *virtio.BlkRequest) bool {
	if !w.doubts {
		return false
	}
	z := w.dev.disk.Info().Zoned
	switch r.Op {
	case backend.OpRead, backend.OpFlush, backend.OpReport:
		return false
	case backend.OpWrite:
		// Sectors of a conventional zone can be written again.
		if i := r.Sector / z.ZoneSectors; i < uint64(z.Zones) && w.dev.disk.ReportZone(int(i)).Type == zone.Conventional {
			return false
		}
	}
	r.Mark.Refuse() // to stay refused once the ring is settled
	r.Err = &backend.RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: int(min(r.Sector/z.ZoneSectors, uint64(z.Zones-1))), Err: errDoubtful}
	return true
}
