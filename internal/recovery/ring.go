package recovery

import (
	"fmt"
	"slices"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// errMayHaveRun is what a request gets that may have been carried out by a daemon that
// died, where no record says whether it was.
var errMayHaveRun = fmt.Errorf("%w: another zvhost died and may have carried it out; the front-end has connected anew without the record that would tell (INFLIGHT_SHMFD)", disk.ErrIO)

// packedStart is where a packed ring begins: both wrap counters are 1.
const PackedStart = 0x8000_8000

// inMidstream says whether a ring does not begin at its beginning: the driver has
// been using it.
func inMidstream(r *transport.Ring) bool {
	if r.Features&virtio.FeatureRingPacked != 0 {
		return r.Base != PackedStart
	}
	return r.Base != 0
}

// A Note says what the record notes of a ring, from the first start of any ring on: whether
// what waits in it may have run. It was checked: a front-end can write to the record.
type Note uint64

// What the record notes of a ring.
const (
	NoteNone       Note = 0 // nothing that means anything
	NoteSettled    Note = 1 // nothing that waits in it may have run
	NoteMayHaveRun Note = 2 // what waits may have been carried out, and was not answered
)

// ParseNote checks the word of a record. Only requests of a zoned disk can be noted as such
// that may have run.
func ParseNote(w inflight.Untrusted, zoned bool) Note {
	switch n := Note(w); {
	case !zoned:
		return NoteNone
	case n == NoteSettled, n == NoteMayHaveRun:
		return n
	}
	return NoteNone
}

// wentRound says whether a ring that stands at its beginning has come back to it: after
// 65,536 requests, or two laps of a packed ring. Its front-end has connected anew, as
// another ring shows, and a device has used entries of this one; Linux clears a new ring.
// Where no other ring shows that, a driver that does not clear its rings may have made a
// new one, and what it sends first is carried out.
func wentRound(r *transport.Ring) (used bool) {
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
func hasUsed(r *transport.Ring) (bool, error) {
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

// Refuse says whether r, which may have run, must not be carried out: it would do something
// else the second time. Its error says so then, and its replay note, so that it stays
// refused where this process dies before it is answered.
func (p *Policy) Refuse(r *virtio.BlkRequest) bool {
	z := p.disk.Info().Zoned
	switch r.Op {
	case disk.OpRead, disk.OpFlush, disk.OpReport:
		return false
	case disk.OpWrite:
		// Sectors of a conventional zone can be written again.
		if i := r.Sector / z.ZoneSectors; i < uint64(z.Zones) && p.disk.ReportZone(int(i)).Type == zone.Conventional {
			return false
		}
	}
	r.Note.Refuse()
	r.Err = &disk.RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: int(min(r.Sector/z.ZoneSectors, uint64(z.Zones-1))), Err: errMayHaveRun}
	return true
}
