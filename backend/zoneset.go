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
	spans, err := parseSpans(s, zones)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(spans, func(a, b zoneSpan) int { return int(a.first) - int(b.first) })
	var list []int
	next := uint64(0) // spans may overlap
	for _, s := range spans {
		for next = max(next, s.first); next <= s.last; next++ {
			list = append(list, int(next))
		}
	}
	return list, nil
}

// zoneSpan are zones, both ends included.
type zoneSpan struct{ first, last uint64 }

func parseSpans(s string, zones int) (spans []zoneSpan, err error) {
	if s == AllZones {
		return []zoneSpan{{0, uint64(zones) - 1}}, nil
	}
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
		spans = append(spans, zoneSpan{first, last})
	}
	return spans, nil
}

// CheckZones says what is wrong with s as an argument of ParseZones, whatever the disk.
func CheckZones(s string) error {
	_, err := parseSpans(s, MaxZones)
	return err
}
