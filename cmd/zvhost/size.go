package main

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// sectorBytes is the unit of every sector number: 512 bytes, whatever the
// disk's logical block size.
const sectorBytes = 512

// sizeUnits are the suffixes of a size, powers of 1024 in order.
const sizeUnits = "KMGTPE"

// parseSize reads a number of bytes: a whole number, alone or followed by K, M,
// G, T, P or E in either case, which count in 1024s and may be written KiB, MiB
// and so on. KB, MB and the like are refused, since they may mean 1000s or 1024s.
func parseSize(s string) (uint64, error) {
	digits := strings.TrimRight(s, "BbIiKkMmGgTtPpEe")
	unit := s[len(digits):]
	if digits == "" {
		return 0, errors.New("not a size: want a whole number such as 512, 64K, 256M or 8G")
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, errors.New("too large: a size is below 16 EiB")
	case err != nil && strings.ContainsAny(digits, ".,"):
		return 0, errors.New("not a whole number: use the next smaller unit, such as 1536M for 1.5G")
	case err != nil:
		return 0, errors.New("not a size: want a whole number such as 512, 64K, 256M or 8G")
	}
	shift, err := unitShift(unit)
	if err != nil {
		return 0, err
	}
	if bits.Len64(n)+shift > 64 {
		return 0, errors.New("too large: a size is below 16 EiB")
	}
	return n << shift, nil
}

// unitShift returns log2 of what a size's suffix stands for.
func unitShift(unit string) (int, error) {
	letter, rest := unit, ""
	if len(unit) > 1 {
		letter, rest = unit[:1], unit[1:]
	}
	letter = strings.ToUpper(letter)
	i := strings.Index(sizeUnits, letter)
	switch {
	case unit == "" || letter == "B" && rest == "":
		return 0, nil
	case i >= 0 && (rest == "" || strings.EqualFold(rest, "iB")):
		return 10 * (i + 1), nil
	case i >= 0 && strings.EqualFold(rest, "B"):
		return 0, fmt.Errorf("%s is ambiguous: write %s or %siB for a power of 1024", unit, letter, letter)
	}
	return 0, fmt.Errorf("unknown unit %q: use K, M, G, T, P or E", unit)
}

// formatSize writes a number of bytes for people, in the largest unit that is
// not larger than it, rounded to a tenth.
func formatSize(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	exp := (bits.Len64(n) - 1) / 10
	unit := uint64(1) << (10 * exp)
	whole := n / unit
	tenths := uint64(math.Round(float64(n%unit) / float64(unit) * 10))
	if tenths == 10 {
		whole, tenths = whole+1, 0
	}
	if n%unit == 0 || whole >= 1000 {
		return fmt.Sprintf("%d %ciB", whole, sizeUnits[exp-1])
	}
	return fmt.Sprintf("%d.%d %ciB", whole, tenths, sizeUnits[exp-1])
}

// sizeFlag is a flag whose value is a size in bytes (pflag.Value); text is the value as the
// user wrote it.
type sizeFlag struct {
	bytes uint64
	text  string
}

func (f *sizeFlag) Set(s string) error {
	n, err := parseSize(s)
	if err != nil {
		return err
	}
	f.bytes, f.text = n, s
	return nil
}

func (f *sizeFlag) String() string { return f.text }
func (f *sizeFlag) Type() string   { return "SIZE" }

// sectors returns the size in sectors. name is the flag's, for the error if the size is
// not a whole number of sectors.
func (f *sizeFlag) sectors(name string) (uint64, error) {
	if f.bytes%sectorBytes != 0 {
		return 0, usagef("--%s %s is not a whole number of sectors: it must be a multiple of %d bytes", name, f.text, sectorBytes)
	}
	return f.bytes / sectorBytes, nil
}
