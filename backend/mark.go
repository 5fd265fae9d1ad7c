package backend

import (
	"cmp"
	"runtime/debug"
	"slices"
	"sync/atomic"
)

// A Mark is what has to be known of a request in flight by whoever finishes it
// in the place of a daemon that died: two words in memory that outlives the
// process, which whoever owns the request has cleared. A disk stores into it,
// with the lock of the zone held:
//
//   - where a sequential write or an append goes, before its data moves and
//     before anybody else can be given an address of the zone;
//   - that it is done, before anybody else can do anything with the zone.
//
// Each is one aligned 64-bit store, so a kill leaves the one or the other.
//
//	word 0   bits 0..7 what is known, bits 8..63 a sector; or bits 8..47 a zone, and
//	         bits 48..63 a range, for markPast, or an operation, for markDone of zone
//	         management
//	word 1   length in sectors, stored before markAt is
//
// A front-end may be able to write to that memory. What a mark says is compared with
// the request that it is of, and with the zones: agrees.
type Mark [2]uint64

// What a Mark knows.
const (
	markNone   = 0 // nothing: the request has changed nothing
	markAt     = 1 // it was given an address: its data stands there in part, or not at all
	markDone   = 2 // it was successful: a write, at this address, or this operation on a zone
	markFailed = 3 // it failed, and what it left is gone
	markPast   = 4 // it goes over zones, and is done with those before this one
	// It closes this zone, which is open with nothing written: once that is empty, the
	// request is done. Done again it would be refused, as nothing else would be.
	markEmptying = 5
)

// Clear forgets what was known. The owner of the request calls it before it
// submits the request.
func (m *Mark) Clear() { atomic.StoreUint64(&m[0], markNone) }

// Refuse notes that the request is not carried out: whoever comes next fails it, too.
// The owner of one that it does not submit calls it.
func (m *Mark) Refuse() { m.failed() }

func (m *Mark) at(sector, sectors uint64) {
	if m == nil {
		return
	}
	atomic.StoreUint64(&m[1], sectors)
	atomic.StoreUint64(&m[0], markAt|sector<<8)
}

func (m *Mark) done(sector uint64) {
	if m != nil {
		atomic.StoreUint64(&m[0], markDone|sector<<8)
	}
}

// managed notes that op was carried out on a zone; OpResetAll, on all of them: zone 0.
func (m *Mark) managed(op Op, zone int) {
	if m != nil {
		atomic.StoreUint64(&m[0], markDone|uint64(zone)<<8|uint64(op)<<48)
	}
}

func (m *Mark) failed() {
	if m != nil {
		atomic.StoreUint64(&m[0], markFailed)
	}
}

func (m *Mark) emptying(sector uint64) {
	if m != nil {
		atomic.StoreUint64(&m[0], markEmptying|sector<<8)
	}
}

// past notes that a request is done with zone i of its range number seg.
func (m *Mark) past(seg uint32, i int) {
	if m != nil {
		atomic.StoreUint64(&m[0], markPast|uint64(i+1)<<8|uint64(seg)<<48)
	}
}

// A mark is what a Mark said when it was looked at, once: others may be able to
// write to it.
type mark struct {
	what            uint8
	sector, sectors uint64
	zone            int
	seg             uint32
}

// op is the operation of a mark that managed has stored.
func (was *mark) op() Op { return Op(was.seg) }

func (m *Mark) load() mark {
	w := atomic.LoadUint64(&m[0])
	return mark{
		what: uint8(w), sector: w >> 8, sectors: atomic.LoadUint64(&m[1]),
		zone: int(w >> 8 & (1<<40 - 1)), seg: uint32(w >> 48),
	}
}

// agrees says whether a disk with these rules and zones can have marked r done like
// that. Of what has no effect, or the same one twice, it never does.
//
// More cannot be known: the zone may have been changed since by requests that came after
// r, so it need not be what r has made of it.
func (was *mark) agrees(u *rules, t zoneTable, r *Request) bool {
	if r.Op == OpResetAll {
		return was.zone == 0 && was.op() == OpResetAll
	}
	if r.Sector >= u.info.CapacitySectors {
		return false
	}
	i, off := int(r.Sector>>u.shift), u.offset(r.Sector)
	switch r.Op {
	case OpWrite, OpAppend:
		from := u.offset(was.sector)
		return !t.conventional(i) && was.sector>>u.shift == uint64(i) && (r.Op == OpWrite && from == off || r.Op == OpAppend && off == 0 && r.Bytes <= u.append) &&
			r.Bytes > 0 && was.sectors == r.Bytes>>SectorShift && u.granular(r.Bytes) &&
			was.sectors <= t.capacity(i) && from <= t.capacity(i)-was.sectors
	case OpOpen, OpClose, OpFinish, OpReset:
		return !t.conventional(i) && off == 0 && was.zone == i && was.op() == r.Op
	}
	return false
}

// A marker is a disk that makes use of marks. One that does not lets a request
// that was in flight run once more, which for reads, flushes and writes without
// a write pointer comes to the same: writes that overlap and are in flight at
// the same time have no order ("Device Operation").
type marker interface {
	Disk
	user() uint64
	renew() error
	begin() error                   // queues are about to be served by its user of before
	unclean() bool                  // it was found as a daemon leaves it that died
	leaveUnclean()                  // it is found so once more when it has been closed
	reserve(claims []claim)         // in the order of their sectors; those that cannot be are marked as failed
	emptied(m *Mark, sector uint64) // m is that of a close which made the zone at sector empty, or was about to
	disown(m *Mark)
	unclaim(m *Mark)
	resume(r *Request)
}

// A claim is a mark of a write in flight, and what it said when it was looked at.
type claim struct {
	of  *Mark
	was mark
}

// Run is the number of the disk's present user: what Renew last returned. It
// stays the same when the daemon dies. 0 where it makes no difference.
func Run(d Disk) uint64 {
	if d, ok := d.(marker); ok {
		return d.user()
	}
	return 0
}

// Renew tells the disk that somebody new begins to use it, who does not go on
// with requests of the one before: marks of that one are worth nothing any more.
// When it returns that is durable.
func Renew(d Disk) (run uint64, err error) {
	if d, ok := d.(marker); ok {
		if err := d.renew(); err != nil {
			return 0, err
		}
		return d.user(), nil
	}
	return 0, nil
}

// Begin tells the disk that queues are about to be served by its user of before, who
// did not Renew it since it was opened.
func Begin(d Disk) error {
	if d, ok := d.(marker); ok {
		return d.begin()
	}
	return nil
}

// Unclean says whether d is zoned and was found as a daemon leaves it that died
// after Renew or Begin: requests may have been in flight.
func Unclean(d Disk) bool {
	m, ok := d.(marker)
	return ok && m.unclean()
}

// LeaveUnclean has d, which is Unclean and which nobody has begun to use since, found so
// once more when it has been closed.
func LeaveUnclean(d Disk) {
	if d, ok := d.(marker); ok {
		d.leaveUnclean()
	}
}

// Claim keeps the addresses that were given to requests in flight when a daemon
// died, until each has come to Lane.Resume, Release or Unclaim. It has to be called for
// all of them before anything is submitted to the disk. run is the number of the
// disk's user then; where it is not that of today, others have used the disk
// since, and writes in flight are failed.
func Claim(d Disk, run uint64, marks []*Mark) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // liveTable.store
	k, ok := d.(marker)
	var claims []claim
	for _, m := range marks {
		switch was := m.load(); was.what {
		case markAt:
			if ok && run == k.user() {
				claims = append(claims, claim{m, was})
			} else if ok {
				m.failed()
			}
		case markPast:
			if ok && run != k.user() {
				m.failed()
			}
		case markEmptying:
			switch {
			case ok && run != k.user():
				m.failed()
			case ok:
				k.emptied(m, was.sector)
			default:
				m.Clear()
			}
		}
	}
	if len(claims) == 0 {
		return
	}
	// So that each finds its place behind the one before: a front-end can have
	// thousands of marks name one zone.
	slices.SortStableFunc(claims, func(a, b claim) int { return cmp.Compare(a.was.sector, b.was.sector) })
	k.reserve(claims)
}

// Release gives up what Claim has kept for m, if anything: no request will come
// for it. What it had written is cleared.
func Release(d Disk, m *Mark) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // liveTable.store
	if d, ok := d.(marker); ok {
		d.disown(m)
	}
}

// Unclaim takes back what Claim has done for m, if anything, and leaves m as it is: for
// another daemon to claim it. Nothing may be in flight any more.
func Unclaim(d Disk, m *Mark) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // liveTable.store
	if d, ok := d.(marker); ok {
		d.unclaim(m)
	}
}

// Resume admits r to d as Submit does; but what r.Mark says is done already is
// not done again.
func (l *Lane) Resume(d Disk, r *Request) {
	k, ok := d.(marker)
	if !ok || r.Mark == nil || r.Mark.load().what == markNone {
		l.Submit(d, r)
		return
	}
	l.prepare(d, r)
	k.resume(r)
}
