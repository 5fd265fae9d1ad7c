package zone

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// All is how every zone of a disk is named (ParseSet).
const All = "all"

// ParseSet reads which of a disk's so many zones are meant: "all", or numbers
// and ranges as in "3,5-7". It returns them in order, each once.
func ParseSet(s string, zones int) ([]int, error) {
	spans, err := parseSpans(s, zones)
	if err != nil {
		return nil, err
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

// zoneSpan are zones, both ends included.
type span struct{ first, last uint64 }

func parseSpans(s string, zones int) (spans []span, err error) {
	if s == All {
		return []span{{0, uint64(zones) - 1}}, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, err := ParseSpan(part, MaxZones-1)
		switch {
		case errors.Is(err, ErrNoSpan):
			return nil, fmt.Errorf("zones %q: want numbers and ranges as in 3,5-7, or all", s)
		case err != nil:
			return nil, fmt.Errorf("zones %q: %w", part, err)
		case last >= uint64(zones):
			return nil, fmt.Errorf("zone %d: the disk has zones 0 to %d", last, zones-1)
		}
		spans = append(spans, span{first, last})
	}
	return spans, nil
}

// CheckSet says what is wrong with s as an argument of ParseSet, whatever the disk.
func CheckSet(s string) error {
	_, err := parseSpans(s, MaxZones)
	return err
}

// ErrNoSpan is what is neither a number nor a range.
var ErrNoSpan = errors.New("want a number such as 5, or a range such as 5-7")

// ParseSpan reads "5" or "5-7", neither above most.
func ParseSpan(s string, most uint64) (first, last uint64, err error) {
	a, b, both := strings.Cut(s, "-")
	if !both {
		b = a
	}
	first, errA := strconv.ParseUint(a, 10, 64)
	last, errB := strconv.ParseUint(b, 10, 64)
	switch {
	case errA != nil || errB != nil:
		return 0, 0, ErrNoSpan
	case first > last:
		return 0, 0, errors.New("the range ends before it begins")
	case last > most:
		return 0, 0, fmt.Errorf("%d is more than any disk has", last)
	}
	return first, last, nil
}
