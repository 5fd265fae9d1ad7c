package suite

import (
	"fmt"

	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/virtio/driver"
)

// pressure is the table for a disk whose open or active zones are used up by
// others: what needs a resource is refused, unless an implicitly open zone can be
// closed, and what needs none is not.
func (t *table) pressure() error {
	for _, p := range []struct {
		name  string
		limit uint32
		steps []uint32 // of each of the others
	}{
		{"open zones used up explicitly", t.Model.MaxOpen, []uint32{driver.TypeZoneOpen}},
		{"open zones used up implicitly", t.Model.MaxOpen, []uint32{driver.TypeOut}},
		{"active zones used up by closed ones", t.Model.MaxActive, []uint32{driver.TypeOut, driver.TypeZoneClose}},
		{"active zones used up by open ones", t.Model.MaxActive, []uint32{driver.TypeOut}},
	} {
		for c := range conditions {
			err := t.underPressure(int(p.limit), p.steps, &conditions[c])
			if err != nil {
				return fmt.Errorf("%s, then a zone that is %s: %w", p.name, conditions[c].name, err)
			}
		}
	}
	return nil
}

func (t *table) underPressure(limit int, steps []uint32, c *condition) error {
	first := t.Model.ConventionalZones
	i := len(t.Model.Zones) - 1
	z := t.Model.Zones[i]
	block := uint64(t.Model.BlockBytes)
	ops := []Op{
		{Type: driver.TypeOut, Sector: z.Start, Bytes: block},
		{Type: driver.TypeOut, Sector: z.Start + t.some(i), Bytes: block},
		{Type: driver.TypeOut, Sector: z.Start, Bytes: (z.Writable - z.Start) * zonemodel.SectorBytes},
		{Type: driver.TypeOut, Sector: z.Start},
		{Type: driver.TypeZoneAppend, Sector: z.Start, Bytes: block},
		{Type: driver.TypeZoneAppend, Sector: z.Start},
		{Type: driver.TypeZoneAppend, Sector: z.Start + 1, Bytes: block},
		{Type: driver.TypeIn, Sector: z.Start, Bytes: block},
		{Type: driver.TypeFlush},
		{Type: driver.TypeZoneOpen, Sector: z.Start},
		{Type: driver.TypeZoneClose, Sector: z.Start},
		{Type: driver.TypeZoneFinish, Sector: z.Start},
		{Type: driver.TypeZoneReset, Sector: z.Start},
		{Type: driver.TypeZoneResetAll},
	}
	switch out := c.state == zonemodel.ReadOnly || c.state == zonemodel.Offline; {
	case limit == 0:
		t.tally.leaveOut("the disk has no such limit", len(ops))
		return nil
	case first+limit >= i:
		t.tally.leaveOut("the disk has fewer zones than the limit", len(ops))
		return nil
	case out && t.served.SetState == nil:
		t.tally.leaveOut(noStates, len(ops))
		return nil
	case (z.Writable - z.Start) > readLimit:
		t.tally.leaveOut(tooLarge, len(ops))
		return nil
	}
	prepare := func() error {
		if err := t.restore(i); err != nil {
			return err
		}
		if err := t.one(&Op{Type: driver.TypeZoneResetAll}); err != nil {
			return err
		}
		// The zone first, as a limit may be in its way later; then the others,
		// which end where the limit is.
		if err := t.prepare(i, c); err != nil {
			return err
		}
		for n := first; n < first+limit; n++ {
			for _, typ := range steps {
				o := Op{Type: typ, Sector: t.Model.Zones[n].Start}
				if typ == driver.TypeOut {
					o.Bytes = block
				}
				if err := t.one(&o); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return t.each(ops, prepare, func() error { return t.restore(i) })
}
