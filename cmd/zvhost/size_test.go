package main

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want uint64
	}{
		{"0", 0}, {"512", 512}, {"512B", 512}, {"64K", 64 << 10}, {"64k", 64 << 10},
		{"1MiB", 1 << 20}, {"1mib", 1 << 20}, {"8G", 8 << 30}, {"8T", 8 << 40}, {"2P", 2 << 50},
		{"15E", 15 << 60}, {"18446744073709551615", math.MaxUint64},
	} {
		got, err := parseSize(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", tt.in, got, err, tt.want)
		}
	}
}

func TestParseSizeErrors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "not a size"}, {"G", "not a size"}, {"-1", "not a size"}, {"0x10", "not a size"}, {"1 G", "not a size"},
		{"1.5G", "1536M"}, {"1,5G", "not a whole number"},
		{"8MB", "ambiguous"}, {"8kb", "write K or KiB"},
		{"8Gi", "unknown unit"}, {"8GiBB", "unknown unit"}, {"8BK", "unknown unit"},
		{"16E", "too large"}, {"18446744073709551616", "too large"}, {"99999999999T", "too large"},
	} {
		got, err := parseSize(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("parseSize(%q) = %d, %v, want an error with %q", tt.in, got, err, tt.want)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for _, tt := range []struct {
		in   uint64
		want string
	}{
		{0, "0 B"}, {1023, "1023 B"}, {1024, "1 KiB"}, {1536, "1.5 KiB"}, {48 << 20, "48 MiB"},
		{1000 << 20, "1000 MiB"}, {1<<30 - 1, "1024 MiB"}, {5 << 30, "5 GiB"}, {8<<40 + 1, "8.0 TiB"}, {math.MaxUint64, "16.0 EiB"},
	} {
		if got := formatSize(tt.in); got != tt.want {
			t.Errorf("formatSize(%d) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

// Every number of bytes has at least one spelling, and none makes the parser
// misbehave: what it takes, it takes right.
func TestParseSizeProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(0, 1<<40).Draw(t, "n")
		unit := rapid.IntRange(0, len(sizeUnits)-1).Draw(t, "unit")
		spelling := rapid.SampledFrom([]string{"", "iB"}).Draw(t, "spelling")
		text := strconv.FormatUint(n, 10) + sizeUnits[unit:unit+1] + spelling
		got, err := parseSize(text)
		shift := 10 * (unit + 1)
		if fits := n == 0 || n<<shift>>shift == n; fits != (err == nil) {
			t.Fatalf("parseSize(%q) = %d, %v; it fits: %v", text, got, err, fits)
		}
		if err == nil && got != n<<shift {
			t.Fatalf("parseSize(%q) = %d, want %d", text, got, n<<shift)
		}
	})
}
