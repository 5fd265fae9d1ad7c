package image

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// Start is how a new image starts out, other than with every zone empty and
// nothing wrong.
type Start struct {
	// Zones that are not empty. None may be named twice; conventional ones
	// cannot be Full.
	ReadOnly, Offline, Full []int
	// Faults are armed whenever the image is served.
	Faults []disk.Fault
}

// prepare makes of s what is written into an image with the layout l: the states
// of zones that s names, and the block of faults if there are any, which it notes
// in l. An error says what is wrong with s.
func (s *Start) prepare(l *format.Layout) (states map[int]zone.State, faults []byte, err error) {
	states = map[int]zone.State{}
	for _, part := range []struct {
		zones      []int
		StateBlock zone.State
	}{{s.ReadOnly, zone.ReadOnly}, {s.Offline, zone.Offline}, {s.Full, zone.Full}} {
		for _, i := range part.zones {
			before, twice := states[i]
			switch {
			case i < 0 || i >= l.Zones():
				return nil, nil, fmt.Errorf("zone %d cannot start %v: the disk has zones 0 to %d", i, part.StateBlock, l.Zones()-1)
			case twice:
				return nil, nil, fmt.Errorf("zone %d cannot start both %v and %v", i, before, part.StateBlock)
			case part.StateBlock == zone.Full && l.Conventional(i):
				return nil, nil, fmt.Errorf("zone %d cannot start full: it is conventional", i)
			}
			states[i] = part.StateBlock
		}
	}
	if len(s.Faults) == 0 {
		return states, nil, nil
	}
	info := disk.Describe(&l.Geometry, false)
	for _, f := range s.Faults {
		if err := f.Check(&info); err != nil {
			return nil, nil, fmt.Errorf("fault %q: %w", f, err)
		}
	}
	l.Compat |= format.FeatureFaults
	faults, err = format.EncodeFaults(s.Faults, l.UUID)
	return states, faults, err
}
