package disk

import (
	"fmt"
	"math/bits"

	"github.com/zvhost/zvhost/backend/zone"
)

// Rules are what reads and writes of a zoned disk are held to before anyone looks
// at a write pointer, whatever the disk stands on ("Device Operation"). What the
// zone's type, state and borders say comes before the length, as the rules about
// them have no exceptions.
type Rules struct {
	info      Info
	Shift     int    // log2 of the zone size in sectors
	MaxAppend uint64 // append limit, bytes
}

// NewRules are the rules of a zoned disk that describes itself so.
func NewRules(i Info) Rules {
	return Rules{info: i, Shift: bits.TrailingZeros64(i.Zoned.ZoneSectors), MaxAppend: uint64(i.Zoned.MaxAppendSectors) << SectorShift}
}

// A zoneTable is the zones of a disk as the rules need to know them.
type zoneTable interface {
	// Entry is what guests see of zone i.
	Entry(i int) zone.Entry
	// Conventional says whether zone i has no write pointer.
	Conventional(i int) bool
	// Length is the number of sectors of zone i, and capacity of those that can be written.
	Length(i int) uint64
	Capacity(i int) uint64
}

// Whole says whether bytes are whole blocks.
func (u *Rules) Whole(bytes uint64) bool { return bytes&(uint64(u.info.LogicalBlockSize)-1) == 0 }

// Granular says whether bytes are as much as writes to zones with a write pointer have.
func (u *Rules) Granular(bytes uint64) bool {
	return bytes&(uint64(u.info.Zoned.WriteGranularity)-1) == 0
}

// Offset is where in its zone a sector lies.
func (u *Rules) Offset(sector uint64) uint64 { return sector & (1<<u.Shift - 1) }

// sectorsOf counts the sectors of bytes; a part of one counts.
func sectorsOf(bytes uint64) uint64 { return (bytes + SectorSize - 1) >> SectorShift }

// Read says whether r, a read, is in order, and how many of its bytes are
// written; those behind them read as zeroes.
func (u *Rules) Read(t zoneTable, r *Request) (written uint64, err error) {
	sectors, capacity := sectorsOf(r.Bytes), u.info.CapacitySectors
	switch {
	case r.Sector > capacity, r.Sector == capacity && sectors > 0:
		return 0, ErrRange
	case r.Sector == capacity: // and nothing to read: there is no zone to look at
		return 0, nil
	}
	first, last := int(r.Sector>>u.Shift), int((r.Sector+max(sectors, 1)-1)>>u.Shift)
	switch {
	case t.Entry(first).State() == zone.Offline: // whatever else is wrong
		return 0, zone.ErrInvalid
	case sectors > capacity-r.Sector:
		return 0, ErrRange
	}
	written = r.Bytes
	for i := first; i <= last; i++ {
		w := t.Entry(i)
		switch {
		case w.State() == zone.Offline, first != last && !t.Conventional(i):
			return 0, zone.ErrInvalid
		case !t.Conventional(i):
			off := u.Offset(r.Sector)
			written = min(r.Bytes, (max(w.Written(), off)-off)<<SectorShift)
		}
	}
	if !u.Whole(r.Sector<<SectorShift) || !u.Whole(r.Bytes) {
		return 0, ErrRange
	}
	return written, nil
}

// Write says whether r, a write or append, is in order as far as can be said
// without its zone's write pointer, and which zone that is.
func (u *Rules) Write(t zoneTable, r *Request) (zn int, err error) {
	sectors := sectorsOf(r.Bytes)
	switch {
	case u.info.ReadOnly:
		return 0, ErrReadOnly
	case r.Sector >= u.info.CapacitySectors && r.Op == OpAppend: // no zone begins there
		return 0, zone.ErrInvalid
	case r.Sector >= u.info.CapacitySectors:
		return 0, ErrRange
	}
	i, off := int(r.Sector>>u.Shift), u.Offset(r.Sector)
	switch {
	case t.Conventional(i):
		return i, u.writeConventional(t, r, i, sectors)
	case r.Op == OpAppend && (off != 0 || r.Bytes > u.MaxAppend), off+sectors > t.Length(i):
		return i, zone.ErrInvalid
	case !u.Granular(r.Bytes):
		if _, err := zone.Transition(t.Entry(i).State(), zone.OnWrite, true); err != nil {
			return i, err
		}
		return i, zone.ErrUnaligned
	}
	return i, nil
}

// writeConventional is write where the first zone, zone i, is conventional.
func (u *Rules) writeConventional(t zoneTable, r *Request, i int, sectors uint64) error {
	if r.Op == OpAppend {
		return zone.ErrInvalid
	}
	for ; uint64(i) <= (r.Sector+max(sectors, 1)-1)>>u.Shift; i++ {
		if uint64(i)<<u.Shift >= u.info.CapacitySectors || t.Entry(i).State() != zone.NotWP {
			return zone.ErrInvalid
		}
	}
	if !u.Whole(r.Sector<<SectorShift) || !u.Whole(r.Bytes) {
		return ErrRange
	}
	return nil
}

// ErrorOf is err, which r fails with.
func (u *Rules) ErrorOf(r *Request, err error) error {
	return &RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: int(min(r.Sector, u.info.CapacitySectors-1) >> u.Shift), Err: err}
}

// ZoneEvents are the zone management requests.
var ZoneEvents = [NumOps]zone.Event{OpOpen: zone.OnOpen, OpClose: zone.OnClose, OpFinish: zone.OnFinish, OpReset: zone.OnReset}

// errReadOnly is what zone management of a read-only disk gets. It is not a write:
// "If the transition to this state can not be performed, the request MUST be
// completed with VIRTIO_BLK_S_ZONE_INVALID_CMD" ("Device Operation").
var errReadOnly = fmt.Errorf("%w: the disk is read-only", zone.ErrInvalid)

// OnReadOnly is the outcome of zone management on the zone w of a read-only disk:
// good if the zone is where the request would have it.
func OnReadOnly(op Op, w zone.Entry) error {
	to, err := zone.Transition(w.State(), ZoneEvents[op], w.Written() != 0)
	if err == nil && to != w.State() {
		err = errReadOnly
	}
	return err
}
