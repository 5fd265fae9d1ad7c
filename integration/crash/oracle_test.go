package crash

import (
	"errors"
	"fmt"
	"slices"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/virtio/driver"
)

// judge says what is wrong with a disk that was like before, saw the requests
// of ops, was killed, and is like after.
func judge(g *rig.Geometry, before, after []zoneView, ops []*op) (undecided int, err error) {
	zones := make([][]*op, len(before))
	byID := map[uint64]*op{}
	for _, o := range ops {
		if o.answered() && (o.status == driver.StatusIOErr || o.status == driver.StatusUnsupp) {
			return 0, findingf("nothing was wrong with the disk, but: zone %d: %v", o.zone, o)
		}
		if o.id != 0 {
			byID[o.id] = o
			o.seen = make([]bool, o.n)
		}
		if o.zone >= 0 {
			zones[o.zone] = append(zones[o.zone], o)
			continue
		}
		for i := g.Conventional; i < len(zones); i++ {
			part := *o
			part.zone = i
			zones[i] = append(zones[i], &part)
		}
	}
	var errs []error
	for i := range zones {
		err := locate(i, before[i].sectors, after[i].sectors, byID)
		switch {
		case err != nil:
		case i < g.Conventional:
			err = judgeConventional(&before[i], &after[i], zones[i])
		default:
			spec := zoneSpec{g.Capacity(i), g.MaxOpen > 0, g.MaxActive > 0}
			err = explain(spec, &before[i], &after[i], zones[i])
		}
		switch {
		case err == errUndecided:
			undecided++
		case err != nil:
			errs = append(errs, fmt.Errorf("zone %d, %s with %d sectors written before and now %s with %d: %w", i,
				rig.StateNames[before[i].state], before[i].written, rig.StateNames[after[i].state], after[i].written, err))
		}
	}
	if err := errors.Join(append(errs, limits(g, after))...); err != nil {
		return undecided, finding{err}
	}
	return undecided, nil
}

// locate finds out which requests the sectors of zone i belong to, and where
// those without an answer have landed. A request that stands anywhere else than
// in one piece in its own zone is an error.
func locate(i int, before, after []rig.Stamp, byID map[uint64]*op) error {
	for at, s := range after {
		at := uint64(at)
		o := byID[s.ID]
		switch {
		case s == rig.Stamp{} || o == nil && s == before[at]:
			continue
		case o == nil:
			return fmt.Errorf("sector %d holds %v, which is old or from elsewhere", at, s)
		case o.zone != i || s.Index >= o.n || s.Index > at:
			return fmt.Errorf("sector %d holds %v, which is not of this zone: %v", at, s, o)
		}
		if o.typ == driver.TypeZoneAppend && !o.answered() && !o.visible() {
			o.at = at - s.Index
		}
		if o.at != at-s.Index {
			return fmt.Errorf("sector %d holds %v, which belongs to sector %d: %v", at, s, o.at+s.Index, o)
		}
		o.seen[s.Index] = true
	}
	return nil
}

// limits says whether more zones are open or active than may be.
func limits(g *rig.Geometry, zones []zoneView) error {
	open, active := 0, 0
	for i := range zones {
		switch zones[i].state {
		case driver.ZoneImpOpen, driver.ZoneExpOpen:
			open++
			active++
		case driver.ZoneClosed:
			active++
		}
	}
	if g.MaxOpen > 0 && open > g.MaxOpen || g.MaxActive > 0 && active > g.MaxActive {
		return fmt.Errorf("%d zones are open and %d active, but at most %d and %d may be", open, active, g.MaxOpen, g.MaxActive)
	}
	return nil
}

// judgeConventional looks at a zone without a write pointer. A sector holds
// what was written last, and while several write it, or one is without an
// answer, what any of them writes.
func judgeConventional(before, after *zoneView, ops []*op) error {
	if after.state != driver.ZoneNotWP {
		return fmt.Errorf("a conventional zone is %s", rig.StateNames[after.state])
	}
	for at := range uint64(len(after.sectors)) {
		got := after.sectors[at]
		var writers []*op
		for _, o := range ops {
			if o.at <= at && at < o.at+o.n {
				if o.answered() && o.status != driver.StatusOK {
					return fmt.Errorf("refused: %v", o)
				}
				writers = append(writers, o)
			}
		}
		i := slices.IndexFunc(writers, func(o *op) bool { return o.id == got.ID })
		written := -1 // when what stands there was answered, at the latest
		if i >= 0 {
			written = writers[i].ret
		} else if got != before.sectors[at] {
			return fmt.Errorf("sector %d holds %v, which is old", at, got)
		}
		for _, o := range writers {
			if o.answered() && o.call > written {
				return fmt.Errorf("sector %d holds %v, though it was overwritten: %v", at, got, o)
			}
		}
	}
	return nil
}
