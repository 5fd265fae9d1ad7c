package backend

import (
	"fmt"
	"math/bits"

	"github.com/zvhost/zvhost/backend/zone"
)

// rules are what reads and writes of a zoned disk are held to before anyone looks
// at a write pointer, whatever the disk stands on ("Device Operation"). What the
// zone's type, state and borders say comes before the length, as the rules about
// them have no exceptions.
type rules struct {
	info   Info
	shift  int    // log2 of the zone size in sectors
	append uint64 // append limit, bytes
}

// newRules are the rules of a zoned disk that describes itself so.
func newRules(i Info) rules {
	return rules{info: i, shift: bits.TrailingZeros64(i.Zoned.ZoneSectors), append: uint64(i.Zoned.MaxAppendSectors) << SectorShift}
}

// A zoneTable is the zones of a disk as the rules need to know them.
type zoneTable interface {
	// entry is what guests see of zone i.
	entry(i int) zone.Entry
	// conventional says whether zone i has no write pointer.
	conventional(i int) bool
	// length is the number of sectors of zone i, and capacity of those that can be written.
	length(i int) uint64
	capacity(i int) uint64
}

// whole says whether bytes are whole blocks.
func (u *rules) whole(bytes uint64) bool { return bytes&(uint64(u.info.LogicalBlockSize)-1) == 0 }

// granular says whether bytes are as much as writes to zones with a write pointer have.
func (u *rules) granular(bytes uint64) bool {
	return bytes&(uint64(u.info.Zoned.WriteGranularity)-1) == 0
}

// offset is where in its zone a sector lies.
func (u *rules) offset(sector uint64) uint64 { return sector & (1<<u.shift - 1) }

// sectorsOf counts the sectors of bytes; a part of one counts.
func sectorsOf(bytes uint64) uint64 { return (bytes + SectorSize - 1) >> SectorShift }

// read says whether r, a read, is in order, and how many of its bytes are
// written; those behind them read as zeroes.
func (u *rules) read(t zoneTable, r *Request) (written uint64, err error) {
	sectors, capacity := sectorsOf(r.Bytes), u.info.CapacitySectors
	switch {
	case r.Sector > capacity, r.Sector == capacity && sectors > 0:
		return 0, ErrRange
	case r.Sector == capacity: // and nothing to read: there is no zone to look at
		return 0, nil
	}
	first, last := int(r.Sector>>u.shift), int((r.Sector+max(sectors, 1)-1)>>u.shift)
	switch {
	case t.entry(first).State() == zone.Offline: // whatever else is wrong
		return 0, zone.ErrInvalid
	case sectors > capacity-r.Sector:
		return 0, ErrRange
	}
	written = r.Bytes
	for i := first; i <= last; i++ {
		w := t.entry(i)
		switch {
		case w.State() == zone.Offline, first != last && !t.conventional(i):
			return 0, zone.ErrInvalid
		case !t.conventional(i):
			off := u.offset(r.Sector)
			written = min(r.Bytes, (max(w.Written(), off)-off)<<SectorShift)
		}
	}
	if !u.whole(r.Sector<<SectorShift) || !u.whole(r.Bytes) {
		return 0, ErrRange
	}
	return written, nil
}

// write says whether r, a write or append, is in order as far as can be said
// without its zone's write pointer, and which zone that is.
func (u *rules) write(t zoneTable, r *Request) (zn int, err error) {
	sectors := sectorsOf(r.Bytes)
	switch {
	case u.info.ReadOnly:
		return 0, ErrReadOnly
	case r.Sector >= u.info.CapacitySectors && r.Op == OpAppend: // no zone begins there
		return 0, zone.ErrInvalid
	case r.Sector >= u.info.CapacitySectors:
		return 0, ErrRange
	}
	i, off := int(r.Sector>>u.shift), u.offset(r.Sector)
	switch {
	case t.conventional(i):
		return i, u.writeConventional(t, r, i, sectors)
	case r.Op == OpAppend && (off != 0 || r.Bytes > u.append), off+sectors > t.length(i):
		return i, zone.ErrInvalid
	case !u.granular(r.Bytes):
		if _, err := zone.Transition(t.entry(i).State(), zone.OnWrite, true); err != nil {
			return i, err
		}
		return i, zone.ErrUnaligned
	}
	return i, nil
}

// writeConventional is write where the first zone, zone i, is conventional.
func (u *rules) writeConventional(t zoneTable, r *Request, i int, sectors uint64) error {
	if r.Op == OpAppend {
		return zone.ErrInvalid
	}
	for ; uint64(i) <= (r.Sector+max(sectors, 1)-1)>>u.shift; i++ {
		if uint64(i)<<u.shift >= u.info.CapacitySectors || t.entry(i).State() != zone.NotWP {
			return zone.ErrInvalid
		}
	}
	if !u.whole(r.Sector<<SectorShift) || !u.whole(r.Bytes) {
		return ErrRange
	}
	return nil
}

// errorOf is err, which r fails with.
func (u *rules) errorOf(r *Request, err error) error {
	return &RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: int(min(r.Sector, u.info.CapacitySectors-1) >> u.shift), Err: err}
}

// events are the zone management requests.
var events = [numOps]zone.Event{OpOpen: zone.OnOpen, OpClose: zone.OnClose, OpFinish: zone.OnFinish, OpReset: zone.OnReset}

// errFrozen is what zone management of a read-only disk gets. It is not a write:
// "If the transition to this state can not be performed, the request MUST be
// completed with VIRTIO_BLK_S_ZONE_INVALID_CMD" ("Device Operation").
var errFrozen = fmt.Errorf("%w: the disk is read-only", zone.ErrInvalid)

// frozen is the outcome of zone management on the zone w of a read-only disk:
// good if the zone is where the request would have it.
func frozen(op Op, w zone.Entry) error {
	to, err := zone.Transition(w.State(), events[op], w.Written() != 0)
	if err == nil && to != w.State() {
		err = errFrozen
	}
	return err
}
