package disk

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/zvhost/zvhost/backend/zone"
)

// FaultKind is what a fault does.
type FaultKind uint8

// The kinds of faults.
const (
	FaultRead    FaultKind = iota + 1 // reads fail
	FaultWrite                        // writes fail, whole or after some sectors
	FaultAppend                       // appends fail, whole or after some sectors
	FaultFlush                        // flushes fail
	FaultLatency                      // answers come late
	FaultFull                         // writes and appends find no space
)

var faultNames = [...]string{
	FaultRead: "read", FaultWrite: "write", FaultAppend: "append",
	FaultFlush: "flush", FaultLatency: "latency", FaultFull: "full",
}

// An OpSet is a set of operations.
type OpSet uint16

// SetOf is the set of these operations.
func SetOf(ops ...Op) (s OpSet) {
	for _, o := range ops {
		s |= 1 << o
	}
	return s
}

// Has says whether o is in the set.
func (s OpSet) Has(o Op) bool { return s>>o&1 != 0 }

// FaultOps are the operations that each kind strikes; of FaultLatency those that
// it can.
var FaultOps = [...]OpSet{
	FaultRead: SetOf(OpRead), FaultWrite: SetOf(OpWrite), FaultAppend: SetOf(OpAppend),
	FaultFlush: SetOf(OpFlush), FaultLatency: SetOf(OpRead, OpWrite, OpAppend, OpFlush),
	FaultFull: SetOf(OpWrite, OpAppend),
}

// Place says what the numbers of a fault count.
type Place uint8

// The places of a fault.
const (
	Everywhere Place = iota
	InZones          // First to Last are zones
	InSectors        // First to Last are sectors of the disk
)

// A Fault is something that goes wrong because a test asked for it. It is plain
// data and has one line as its text (String, ParseFault), which is its JSON too:
//
//	read,zone=5                    reads that touch zone 5 fail
//	write,zone=5-7,once,after=16   the next write there fails behind its first 16 sectors
//	append,sectors=1000-1999,times=3
//	flush                          flushes fail
//	latency=200ms,op=write,zone=4  writes of zone 4 are answered that much later
//	full,left=1M                   there is space for 1 MiB more, and then none
//
// A fault strikes requests that would have succeeded: those that are wrong
// anyhow keep their own errors. FaultWrite strikes writes only, FaultAppend
// appends only; discards, write-zeroes and zone requests are struck by none.
type Fault struct {
	Kind FaultKind
	// Ops are the operations of FaultLatency; none means all that it can strike,
	// and where it has a place that is all but flushes.
	Ops   OpSet
	Place Place // not of FaultFlush and FaultFull: they are Everywhere
	// First and Last are zones or sectors, inclusive; zero where Place is
	// Everywhere.
	First, Last uint64
	Times       uint32 // how many requests it strikes; 0: all there are
	// After is how many sectors of a write or append land before it fails,
	// rounded down to whole blocks. A request that is not longer than that is
	// not struck.
	After uint64
	Delay time.Duration // FaultLatency: more than 0, at most MaxDelay
	Left  uint64        // FaultFull: bytes that still find space
}

const (
	// MaxDelay is the longest that a fault can hold an answer back.
	MaxDelay = time.Hour

	maxLeft = 1 << 62 // bytes of FaultFull
)

// String is the fault in one line, as ParseFault reads it.
func (f Fault) String() string {
	var b strings.Builder
	if int(f.Kind) < len(faultNames) {
		b.WriteString(faultNames[f.Kind])
	}
	if f.Kind == FaultLatency {
		fmt.Fprintf(&b, "=%v", f.Delay)
	}
	for o := range NumOps {
		if f.Ops.Has(o) {
			fmt.Fprintf(&b, ",op=%v", o)
		}
	}
	if f.Place != Everywhere {
		fmt.Fprintf(&b, ",%s=%d", [...]string{InZones: "zone", InSectors: "sectors"}[f.Place], f.First)
		if f.First != f.Last || f.Place == InSectors {
			fmt.Fprintf(&b, "-%d", f.Last)
		}
	}
	switch f.Times {
	case 0:
	case 1:
		b.WriteString(",once")
	default:
		fmt.Fprintf(&b, ",times=%d", f.Times)
	}
	if f.After != 0 {
		fmt.Fprintf(&b, ",after=%d", f.After)
	}
	if f.Left != 0 {
		b.WriteString(",left=" + formatBytes(f.Left))
	}
	return b.String()
}

// MarshalText makes the fault's line its JSON.
func (f Fault) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (f *Fault) UnmarshalText(b []byte) (err error) {
	*f, err = ParseFault(string(b))
	return err
}

// ParseFault reads a fault from its line. An error says which word is wrong.
func ParseFault(s string) (Fault, error) {
	f, err := parseFault(s)
	if err != nil {
		return Fault{}, fmt.Errorf("fault %q: %w", s, err)
	}
	return f, nil
}

func parseFault(s string) (f Fault, err error) {
	if len(s) > MaxFaultText {
		return f, fmt.Errorf("longer than %d bytes", MaxFaultText)
	}
	words := strings.Split(s, ",")
	kind, delay, _ := strings.Cut(words[0], "=")
	for k, name := range faultNames {
		if name != "" && name == kind {
			f.Kind = FaultKind(k)
		}
	}
	switch {
	case f.Kind == 0:
		return f, fmt.Errorf("%q is no kind of fault: want read, write, append, flush, latency=TIME or full first", words[0])
	case f.Kind == FaultLatency:
		f.Delay, err = time.ParseDuration(delay)
		if err != nil || f.Delay <= 0 || f.Delay > MaxDelay {
			return f, fmt.Errorf("%q: want a time such as latency=200ms, at most %v", words[0], MaxDelay)
		}
	case words[0] != kind:
		return f, fmt.Errorf("%q: only latency has a value", words[0])
	}
	seen := map[string]bool{}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		if group := [...]string{"zone", "times"}; key == "sectors" || key == "once" {
			key = map[string]string{"sectors": group[0], "once": group[1]}[key]
		}
		if seen[key] && key != "op" {
			return f, fmt.Errorf("%q: said twice, or with one that says the same", word)
		}
		seen[key] = true
		if err := f.set(word, value); err != nil {
			return f, fmt.Errorf("%q: %w", word, err)
		}
	}
	if f.Ops.Has(OpFlush) && f.Place != Everywhere {
		return f, errors.New("a flush has no place: leave out op=flush, or where")
	}
	return f, nil
}

// MaxFaultText is the longest line that can be a fault, in bytes.
const MaxFaultText = 256

// set takes in one word of a fault's line, with its value.
func (f *Fault) set(word, value string) (err error) {
	key, _, _ := strings.Cut(word, "=")
	placed := f.Kind != FaultFlush && f.Kind != FaultFull
	switch {
	case word == "once" && f.Kind != FaultFull:
		f.Times = 1
	case key == "times" && f.Kind != FaultFull:
		f.Times, err = parseTimes(value)
	case key == "zone" && placed:
		f.Place = InZones
		f.First, f.Last, err = zone.ParseSpan(value, zone.MaxZones-1)
	case key == "sectors" && placed:
		f.Place = InSectors
		f.First, f.Last, err = zone.ParseSpan(value, zone.MaxDiskSectors-1)
	case key == "after" && (f.Kind == FaultWrite || f.Kind == FaultAppend):
		f.After, err = strconv.ParseUint(value, 10, 64)
		if err != nil || f.After > zone.MaxDiskSectors {
			return errors.New("want a number of sectors")
		}
	case key == "left" && f.Kind == FaultFull:
		f.Left, err = parseBytes(value)
	case key == "op" && f.Kind == FaultLatency:
		for o := range NumOps {
			if o.String() == value && FaultOps[FaultLatency].Has(o) {
				f.Ops |= SetOf(o)
				return nil
			}
		}
		return errors.New("want op=read, op=write, op=append or op=flush")
	default:
		return fmt.Errorf("not a word of a %s fault (see zvhost fault add --help)", faultNames[f.Kind])
	}
	return err
}

func parseTimes(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return 0, errors.New("want how often, from 1 on")
	}
	return uint32(n), nil
}

const byteUnits = "KMGTP"

// parseBytes reads a number of bytes, alone or with K, M, G, T or P behind it, in
// 1024s.
func parseBytes(s string) (uint64, error) {
	digits, shift := s, 0
	if n := len(s); n > 0 {
		if u := strings.IndexByte(byteUnits, s[n-1]); u >= 0 {
			digits, shift = s[:n-1], 10*(u+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || bits.Len64(n)+shift > 63 || n<<shift > maxLeft {
		return 0, errors.New("want a number of bytes such as 1M")
	}
	return n << shift, nil
}

func formatBytes(n uint64) string {
	u := 0
	for n != 0 && n%1024 == 0 && u < len(byteUnits) {
		n /= 1024
		u++
	}
	return strconv.FormatUint(n, 10) + byteUnits[:u][max(u-1, 0):]
}

// Check says whether f can be a fault of a disk like i.
func (f *Fault) Check(i *Info) error {
	switch {
	case f.Kind == 0 || int(f.Kind) >= len(faultNames) || f.Kind == FaultLatency && (f.Delay <= 0 || f.Delay > MaxDelay):
		return errors.New("not a fault")
	case i.Zoned == nil && (f.Kind == FaultAppend || f.Ops.Has(OpAppend)):
		return errors.New("the disk is an ordinary one: it has no appends")
	case i.Zoned == nil && f.Place == InZones:
		return errors.New("the disk is an ordinary one: it has no zones; name sectors instead")
	case f.Place == InZones && f.Last >= uint64(i.Zoned.Zones):
		return fmt.Errorf("zone %d is beyond the last, %d", f.Last, i.Zoned.Zones-1)
	case f.Place == InSectors && f.Last >= i.CapacitySectors:
		return fmt.Errorf("sector %d is beyond the last, %d", f.Last, i.CapacitySectors-1)
	}
	return nil
}
