package backend

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// erase carries out a secure erase: "in the same way" as a reset of each of the
// zones named ("Device Operation"). More than a reset promises, what stood there
// is gone from the file, durably, before the guest has its answer. Nothing is
// begun unless all the zones can be reset.
func (d *zoned) erase(r *zonedRequest) {
	if d.img.ReadOnly {
		d.fail(r, disk.ErrReadOnly)
		return
	}
	for _, seg := range r.Ranges {
		if err := d.erasable(seg.Sector, uint64(seg.Sectors)); err != nil {
			d.fail(r, err)
			return
		}
	}
	r.rangeNo = 0
	d.eraseFrom(r, 0)
}

// erasable says whether a range is whole sequential zones that can be reset. A
// smaller last zone is whole as well.
func (d *zoned) erasable(sector, sectors uint64) error {
	size, capacity := d.img.ZoneSectors, d.zinfo.CapacitySectors
	switch end := sector + sectors; {
	case sector > capacity || sectors > capacity-sector:
		return disk.ErrRange
	case sector < d.conv || sector&(size-1) != 0 || end&(size-1) != 0 && end != capacity:
		return zone.ErrInvalid
	default:
		for i := sector >> d.shift; i < (end+size-1)>>d.shift; i++ {
			if _, err := zone.Transition(d.Entry(int(i)).State(), zone.OnReset, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// erased are the first zone of a range, and the first one behind it.
func (d *zoned) erased(seg *disk.Range) (from, to int) {
	end := seg.Sector + uint64(seg.Sectors) + d.img.ZoneSectors - 1
	return int(seg.Sector >> d.shift), int(end >> d.shift)
}

// eraseFrom resets the zones of r's ranges from the one that r.rangeNo names on,
// and in that from zone i on; then the committer sees to the rest. Where a zone
// has writes in flight it waits there, and goes on when they have landed.
func (d *zoned) eraseFrom(r *zonedRequest, i int) {
	for ; int(r.rangeNo) < len(r.Ranges); r.rangeNo++ {
		from, to := d.erased(&r.Ranges[r.rangeNo])
		for i = max(i, from); i < to; i++ {
			z := &d.zones[i]
			z.mu.Lock()
			if z.wait.Head != nil || !z.flying.emptyLocked() {
				r.zone = int32(i)
				d.queueLocked(z, r)
				z.mu.Unlock()
				return
			}
			err := d.resetOneOfLocked(z, i, r, r.rangeNo)
			d.unstickLocked(z, i)
			z.mu.Unlock()
			if err != nil {
				d.fail(r, err)
				return
			}
		}
		i = 0 // ranges come in any order
	}
	r.looks = 0
	d.com.erase(r.Request)
}

// eraseTries is how often an erase looks again for old data that somebody else
// tries to make go away: guests decide how often that is.
const eraseTries = 4

// uncleared is what went wrong with an erase whose zones the committer has
// dealt with: old data that could not be made to go away. again says that
// another try is due, which a write has asked for meanwhile: r has to wait for
// that. A gate that a later reset has shut says nothing of r's data.
func (d *zoned) uncleared(r *zonedRequest) (again bool, err error) {
	for n := range r.Ranges {
		from, to := d.erased(&r.Ranges[n])
		for i := from; i < to; i++ {
			z := &d.zones[i]
			z.mu.Lock()
			owed, stuck := z.gate.owed, z.gate.stuck
			z.mu.Unlock()
			if stuck || owed && r.looks == eraseTries {
				return false, fmt.Errorf("zone %d was reset, but its old data could not be cleared", i)
			}
			again = again || owed
		}
	}
	r.looks++
	return again, nil
}
