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

// A Ring answers for one queue what is done with its requests. Between the start of the
// queue and Policy.Stopped its worker calls its methods; it has claimed and unclean from the
// session's goroutine.
type Ring struct {
	policy *Policy
	// unclean says that the queue was not used since a daemon died with the disk, or not
	// for long enough to refuse what waited in it.
	unclean bool
	claimed []*disk.Note // of the requests in flight, while the queue is not served

	// Of the present start, and the worker's:
	record     *inflight.Ring // nil: none
	mayHaveRun bool           // of what waits in the ring
	taken      []*disk.Note   // what was claimed
}

// A Verdict says what is done with a request.
type Verdict uint8

// The verdicts.
const (
	Submit Verdict = iota // it is new, or may be carried out twice
	Resume                // it was in flight: its replay note says how far it came
	Refuse                // it may have run, and would do something else the second time
)

// Waiting is the verdict on a request that has waited in the ring.
func (g *Ring) Waiting(r *virtio.BlkRequest) Verdict {
	if g.mayHaveRun && g.policy.refuse(r) {
		return Refuse
	}
	return Submit
}

// InFlight is the verdict on a request that the record lists as in flight. In a ring whose
// requests may have run, a process has taken it that died before it could refuse it.
func (g *Ring) InFlight(r *virtio.BlkRequest) Verdict {
	if g.mayHaveRun && g.policy.refuse(r) {
		return Refuse
	}
	return Resume
}

// MayHaveRun reports whether what waits in the ring may have run: the worker pops all of it
// before the driver sees an answer.
func (g *Ring) MayHaveRun() bool { return g.mayHaveRun }

// Settle records that all requests that may have run have their verdict. What arrives once
// the driver has seen an answer is new.
func (g *Ring) Settle() {
	g.mayHaveRun = false
	g.record.SetNote(uint64(NoteSettled))
}

// Claims is the number of requests in flight that are claimed, while the queue is not served.
func (g *Ring) Claims() int { return len(g.claimed) }

// ReleaseClaims releases the addresses that are still claimed for requests of the ring: no
// process will resume those.
func (g *Ring) ReleaseClaims() {
	g.policy.release(g.taken)
	g.taken = nil
}

// errMayHaveRun is the error of a request that may have been carried out by a daemon that
// died, if no record says whether it was.
var errMayHaveRun = fmt.Errorf("%w: another zvhost died and may have carried it out; the front-end has reconnected without the record that would say so (INFLIGHT_SHMFD)", disk.ErrIO)

// PackedStart is where a packed ring begins: both wrap counters are 1.
const PackedStart = 0x8000_8000

// inMidstream reports whether a ring continues behind its beginning: the driver has used it.
func inMidstream(r *transport.Ring) bool {
	if r.Features&virtio.FeatureRingPacked != 0 {
		return r.Base != PackedStart
	}
	return r.Base != 0
}

// A Note is what the record says of a ring, from the first start of any ring on: whether
// what waits in it may have run. It was checked: a front-end can write to the record.
type Note uint64

// What the record says of a ring.
const (
	NoteNone       Note = 0 // no zvhost has stored a note
	NoteSettled    Note = 1 // nothing that waits in it may have run
	NoteMayHaveRun Note = 2 // what waits may have been carried out, and was not answered
)

// ParseNote checks the word of a record. Only the rings of a zoned disk have notes.
func ParseNote(w inflight.Untrusted, zoned bool) Note {
	switch n := Note(w); {
	case !zoned:
		return NoteNone
	case n == NoteSettled, n == NoteMayHaveRun:
		return n
	}
	return NoteNone
}

// wentRound reports whether a ring that is at its beginning has come back to it: after
// 65,536 requests, or two laps of a packed ring. Its front-end has reconnected, as another
// ring shows, and a device has used entries of this one; Linux clears a new ring. If no
// other ring shows that the front-end has reconnected, a driver that does not clear its
// rings may have set up a new one, and what it sends first is carried out.
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

// hasUsed reports whether a device has used an entry of a ring that is at its beginning.
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
	return waits == int(r.Size), err // no entry shows whether it was used
}

// refuse reports whether r, which may have run, must not be carried out: it would do something
// else the second time. It then sets the request's error, and stores the refusal in its
// replay note, so that the next process refuses it too if this one dies before the answer.
func (p *Policy) refuse(r *virtio.BlkRequest) bool {
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
