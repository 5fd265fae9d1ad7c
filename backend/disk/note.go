package disk

import (
	"cmp"
	"runtime/debug"
	"slices"
	"sync/atomic"
)

// A Note is what has to be known of a request in flight by whoever finishes it
// in the place of a daemon that died: two words in memory that outlives the
// process, which whoever owns the request has cleared. A disk stores into it,
// with the lock of the zone held:
//
//   - where a sequential write or an append goes, before its data moves and
//     before anybody else can be given an address of the zone;
//   - that it is done, before anybody else can do anything with the zone;
//   - that a request is about to change the state of a zone, before it does. Whoever
//     finishes it sees in the zone whether it did, and has to look before any other
//     request can change the zone.
//
// Each is one aligned 64-bit store, so a kill leaves the one or the other.
//
//	word 0   bits 0..7 what is known, bits 8..63 a sector; or bits 8..47 a zone, and
//	         bits 48..63 a range, for NotedZones and NotedChangingOneOf, or an operation, for
//	         NotedChanging and for NotedDone of zone management
//	word 1   length in sectors, stored before NotedAddress is
//
// A front-end may be able to write to that memory. What a note says is compared with
// the request that it is of, and with the zones: agrees.
type Note [2]uint64

// What a Note knows.
const (
	NothingNoted = 0 // nothing: the request has changed nothing
	NotedAddress = 1 // it was given an address: its data stands there in part, or not at all
	NotedDone    = 2 // it was successful: a write, at this address, or this operation on a zone
	NotedFailed  = 3 // it failed, and what it left is gone
	NotedZones   = 4 // it goes over zones, and is done with those before this one
	// It closes this zone, which is open with nothing written: once that is empty, the
	// request is done. Done again it would be refused, as nothing else would be.
	NotedEmptying = 5
	// It is about to carry out this operation on this zone. Once the zone is as that
	// leaves it, the request is done.
	NotedChanging = 6
	// As NotedZones, and it is about to reset the zone.
	NotedChangingOneOf = 7
)

// Clear forgets what was known. The owner of the request calls it before it
// submits the request.
func (m *Note) Clear() {
	if m != nil {
		atomic.StoreUint64(&m[0], NothingNoted)
	}
}

// Refuse notes that the request is not carried out: whoever comes next fails it, too.
// The owner of one that it does not submit calls it.
func (m *Note) Refuse() { m.Failed() }

// At notes the address of a write, in sectors of the disk, and its length in sectors. A nil
// Note notes nothing: so do the methods below.
func (m *Note) At(sector, sectors uint64) {
	if m == nil {
		return
	}
	atomic.StoreUint64(&m[1], sectors)
	atomic.StoreUint64(&m[0], NotedAddress|sector<<8)
}

func (m *Note) Done(sector uint64) {
	if m != nil {
		atomic.StoreUint64(&m[0], NotedDone|sector<<8)
	}
}

// Managed notes that op was carried out on a zone; OpResetAll, on all of them: zone 0.
func (m *Note) Managed(op Op, zone int) {
	if m != nil {
		atomic.StoreUint64(&m[0], NotedDone|uint64(zone)<<8|uint64(op)<<48)
	}
}

// Failed notes that the request has failed, and that nothing is left of it.
func (m *Note) Failed() {
	if m != nil {
		atomic.StoreUint64(&m[0], NotedFailed)
	}
}

// Emptying notes that a close is about to make the zone at this sector empty.
func (m *Note) Emptying(sector uint64) {
	if m != nil {
		atomic.StoreUint64(&m[0], NotedEmptying|sector<<8)
	}
}

// Changing notes that op is about to be carried out on a zone; OpResetAll, on all of them:
// zone 0.
func (m *Note) Changing(op Op, zone int) {
	if m != nil {
		atomic.StoreUint64(&m[0], NotedChanging|uint64(zone)<<8|uint64(op)<<48)
	}
}

// ChangingOneOf notes that a request, which is done with those before it, is about to reset
// zone i of its range number seg.
func (m *Note) ChangingOneOf(seg uint32, i int) {
	if m != nil {
		atomic.StoreUint64(&m[0], NotedChangingOneOf|uint64(i)<<8|uint64(seg)<<48)
	}
}

// Past notes that a request is done with zone i of its range number seg.
func (m *Note) Past(seg uint32, i int) {
	if m != nil {
		atomic.StoreUint64(&m[0], NotedZones|uint64(i+1)<<8|uint64(seg)<<48)
	}
}

// A Noted is what a Note said when it was looked at, once: others may be able to
// write to it.
type Noted struct {
	What            uint8
	Sector, Sectors uint64
	Zone            int
	Seg             uint32
}

// Op is the operation of a note that Managed or Changing has stored.
func (was *Noted) Op() Op { return Op(was.Seg) }

// Load reads the note, each word once: a front-end may be able to change it.
func (m *Note) Load() Noted {
	w := atomic.LoadUint64(&m[0])
	return Noted{
		What: uint8(w), Sector: w >> 8, Sectors: atomic.LoadUint64(&m[1]),
		Zone: int(w >> 8 & (1<<40 - 1)), Seg: uint32(w >> 48),
	}
}

// Agrees says whether a disk with these rules and zones can have marked r done like
// that. Of what has no effect, or the same one twice, it never does.
//
// More cannot be known: the zone may have been changed since by requests that came after
// r, so it need not be what r has made of it.
func (was *Noted) Agrees(u *Rules, t zoneTable, r *Request) bool {
	if r.Op == OpResetAll {
		return was.Zone == 0 && was.Op() == OpResetAll
	}
	if r.Sector >= u.info.CapacitySectors {
		return false
	}
	i, off := int(r.Sector>>u.Shift), u.Offset(r.Sector)
	switch r.Op {
	case OpWrite, OpAppend:
		from := u.Offset(was.Sector)
		return !t.Conventional(i) && was.Sector>>u.Shift == uint64(i) && (r.Op == OpWrite && from == off || r.Op == OpAppend && off == 0 && r.Bytes <= u.MaxAppend) &&
			r.Bytes > 0 && was.Sectors == r.Bytes>>SectorShift && u.Granular(r.Bytes) &&
			was.Sectors <= t.Capacity(i) && from <= t.Capacity(i)-was.Sectors
	case OpOpen, OpClose, OpFinish, OpReset:
		return !t.Conventional(i) && off == 0 && was.Zone == i && was.Op() == r.Op
	}
	return false
}

// A Resumer is a disk that makes use of notes. One that does not lets a request
// that was in flight run once more, which for reads, flushes and writes without
// a write pointer comes to the same: writes that overlap and are in flight at
// the same time have no order ("Device Operation").
type Resumer interface {
	Disk
	User() uint64
	Renew() error
	Begin() error                   // queues are about to be served by its user of before
	Unclean() bool                  // it was found as a daemon leaves it that died
	LeaveUnclean()                  // it is found so once more when it has been closed
	Reserve(claims []Reservation)   // in the order of their sectors; those that cannot be are marked as failed
	Emptied(m *Note, sector uint64) // m is that of a close which made the zone at sector empty, or was about to
	// Changed decides about a request that was about to change a zone, by what the zone is:
	// m says NotedChanging or NotedChangingOneOf.
	Changed(m *Note, was Noted)
	Disown(m *Note)
	Unclaim(m *Note)
	Resume(r *Request)
}

// A Reservation is a note of a write in flight, and what it said when it was looked at.
type Reservation struct {
	Of  *Note
	Was Noted
}

// Run is the number of the disk's present user: what Renew last returned. It
// stays the same when the daemon dies. 0 where it makes no difference.
func Run(d Disk) uint64 {
	if d, ok := d.(Resumer); ok {
		return d.User()
	}
	return 0
}

// Renew tells the disk that somebody new begins to use it, who does not go on
// with requests of the one before: notes of that one are worth nothing any more.
// When it returns that is durable.
func Renew(d Disk) (run uint64, err error) {
	if d, ok := d.(Resumer); ok {
		if err := d.Renew(); err != nil {
			return 0, err
		}
		return d.User(), nil
	}
	return 0, nil
}

// Begin tells the disk that queues are about to be served by its user of before, who
// did not Renew it since it was opened.
func Begin(d Disk) error {
	if d, ok := d.(Resumer); ok {
		return d.Begin()
	}
	return nil
}

// Unclean says whether d is zoned and was found as a daemon leaves it that died
// after Renew or Begin: requests may have been in flight.
func Unclean(d Disk) bool {
	k, ok := d.(Resumer)
	return ok && k.Unclean()
}

// LeaveUnclean has d, which is Unclean and which nobody has begun to use since, found so
// once more when it has been closed.
func LeaveUnclean(d Disk) {
	if d, ok := d.(Resumer); ok {
		d.LeaveUnclean()
	}
}

// Claim keeps the addresses that were given to requests in flight when a daemon
// died, until each has come to Lane.Resume, Release or Unclaim. It has to be called for
// all of them before anything is submitted to the disk. run is the number of the
// disk's user then; where it is not that of today, others have used the disk
// since, and writes in flight are failed.
func Claim(d Disk, run uint64, notes []*Note) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // LiveTable.Store of an image
	k, ok := d.(Resumer)
	var claims []Reservation
	for _, m := range notes {
		switch was := m.Load(); was.What {
		case NotedAddress:
			if ok && run == k.User() {
				claims = append(claims, Reservation{m, was})
			} else if ok {
				m.Failed()
			}
		case NotedZones:
			if ok && run != k.User() {
				m.Failed()
			}
		case NotedEmptying, NotedChanging, NotedChangingOneOf:
			switch {
			case !ok:
				m.Clear()
			case run != k.User():
				m.Failed()
			case was.What == NotedEmptying:
				k.Emptied(m, was.Sector)
			default:
				k.Changed(m, was)
			}
		}
	}
	if len(claims) == 0 {
		return
	}
	// So that each finds its place behind the one before: a front-end can have
	// thousands of notes name one zone.
	slices.SortStableFunc(claims, func(a, b Reservation) int { return cmp.Compare(a.Was.Sector, b.Was.Sector) })
	k.Reserve(claims)
}

// Release gives up what Claim has kept for m, if anything: no request will come
// for it. What it had written is cleared.
func Release(d Disk, m *Note) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // LiveTable.Store of an image
	if d, ok := d.(Resumer); ok {
		d.Disown(m)
	}
}

// Unclaim takes back what Claim has done for m, if anything, and leaves m as it is: for
// another daemon to claim it. Nothing may be in flight any more.
func Unclaim(d Disk, m *Note) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // LiveTable.Store of an image
	if d, ok := d.(Resumer); ok {
		d.Unclaim(m)
	}
}

// Resume admits r to d as Submit does; but what r.Note says is done already is
// not done again.
func (l *Lane) Resume(d Disk, r *Request) {
	k, ok := d.(Resumer)
	if !ok || r.Note == nil || r.Note.Load().What == NothingNoted {
		l.Submit(d, r)
		return
	}
	l.prepare(d, r)
	k.Resume(r)
}
