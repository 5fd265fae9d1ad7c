package backend

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// AllZones is how every zone of a disk is named (ParseZones).
const AllZones = "all"

// ParseZones reads which of a disk's so many zones are meant: "all", or numbers
// and ranges as in "3,5-7". It returns them in order, each once.
func ParseZones(s string, zones int) ([]int, error) {
	if s == AllZones {
		s = fmt.Sprintf("0-%d", zones-1)
	}
	type span struct{ first, last uint64 }
	var spans []span
	for part := range strings.SplitSeq(s, ",") {
		first, last, err := parseSpan(part, MaxZones-1)
		switch {
		case errors.Is(err, errNoSpan):
			return nil, fmt.Errorf("zones %q: want numbers and ranges as in 3,5-7, or all", s)
		case err != nil:
			return nil, fmt.Errorf("zones %q: %w", part, err)
		case last >= uint64(zones):
			return nil, fmt.Errorf("zone %d: the disk has zones 0 to %d", last, zones-1)
		}
		spans = append(spans, span{first, last})
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.first) - int(b.first) })
	var list []int
	next := uint64(0) // spans may overlap
	for _, s := range spans {
		for next = max(next, s.first); next <= s.last; next++ {
			list = append(list, int(next))
		}
	}
	return list, nil
}
