package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// sampleZones are 64 MiB zones of 48 MiB in every state there is, as a guest's
// driver would be told of them.
func sampleZones() []zone.Descriptor {
	const length, capacity = 0x20000, 0x18000
	states := []struct {
		state   zone.State
		written uint64
	}{
		{zone.NotWP, 0}, {zone.Empty, 0}, {zone.ImpOpen, 0x800}, {zone.ExpOpen, 0},
		{zone.Closed, 0x17fff}, {zone.Full, length}, {zone.ReadOnly, 0x10}, {zone.Offline, 0},
	}
	zones := make([]zone.Descriptor, len(states))
	for i, s := range states {
		start := uint64(i) * length
		zones[i] = zone.Descriptor{Start: start, Length: length, Capacity: capacity, WP: start + s.written, Type: zone.SequentialWriteRequired, State: s.state}
	}
	zones[0].Type, zones[0].Capacity = zone.Conventional, length
	last := &zones[len(zones)-1] // smaller than the others
	last.Length, last.Capacity = 0x8000, 0x8000
	return zones
}

// What blkzone of util-linux prints in a guest for sampleZones: taken from its
// source (sys-utils/blkzone.c) and that of the guest's driver
// (drivers/block/virtio_blk.c), and compared with the real thing by
// integration/qemu_test.sh.
const sampleLines = `  start: 0x000000000, len 0x020000, cap 0x020000, wptr 0x000000 reset:0 non-seq:0, zcond: 0(nw) [type: 1(CONVENTIONAL)]
  start: 0x000020000, len 0x020000, cap 0x018000, wptr 0x000000 reset:0 non-seq:0, zcond: 1(em) [type: 2(SEQ_WRITE_REQUIRED)]
  start: 0x000040000, len 0x020000, cap 0x018000, wptr 0x000800 reset:0 non-seq:0, zcond: 2(oi) [type: 2(SEQ_WRITE_REQUIRED)]
  start: 0x000060000, len 0x020000, cap 0x018000, wptr 0x000000 reset:0 non-seq:0, zcond: 3(oe) [type: 2(SEQ_WRITE_REQUIRED)]
  start: 0x000080000, len 0x020000, cap 0x018000, wptr 0x017fff reset:0 non-seq:0, zcond: 4(cl) [type: 2(SEQ_WRITE_REQUIRED)]
  start: 0x0000a0000, len 0x020000, cap 0x018000, wptr 0x020000 reset:0 non-seq:0, zcond:14(fu) [type: 2(SEQ_WRITE_REQUIRED)]
  start: 0x0000c0000, len 0x020000, cap 0x018000, wptr 0xfffffffffff3ffff reset:0 non-seq:0, zcond:13(ro) [type: 2(SEQ_WRITE_REQUIRED)]
  start: 0x0000e0000, len 0x008000, cap 0x008000, wptr 0xfffffffffff1ffff reset:0 non-seq:0, zcond:15(of) [type: 2(SEQ_WRITE_REQUIRED)]
`

func TestZoneLines(t *testing.T) {
	var out bytes.Buffer
	if err := writeZoneLines(&out, sampleZones()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleLines, out.String()); diff != "" {
		t.Errorf("the lines differ from blkzone's (-want +got):\n%s", diff)
	}
}

func TestReport(t *testing.T) {
	path := newImage(t, "--size", "256K", "--zone-size", "64K", "--zone-capacity", "48K", "--conventional", "1")
	lines := strings.SplitAfter(must(t, "report", path), "\n")
	want := "  start: 0x000000180, len 0x000080, cap 0x000060, wptr 0x000000 reset:0 non-seq:0, zcond: 1(em) [type: 2(SEQ_WRITE_REQUIRED)]\n"
	if len(lines) != 5 || lines[3] != want {
		t.Errorf("the last line is %q of\n%q", want, lines)
	}

	var r reportJSON
	if err := json.Unmarshal([]byte(must(t, "report", path, "--json")), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.UUID) != 36 || r.File != path {
		t.Errorf("file %q, UUID %q", r.File, r.UUID)
	}
	wp := uint64(384)
	wantZone := zoneJSON{Number: 3, StartSector: 384, LengthSectors: 128, CapacitySectors: 96, WritePointer: &wp, Type: "sequential", State: "empty"}
	if diff := cmp.Diff(wantZone, r.Zones[3]); diff != "" {
		t.Errorf("zone 3 (-want +got):\n%s", diff)
	}
	if z := r.Zones[0]; z.WritePointer != nil || z.Type != "conventional" || z.State != "not-wp" {
		t.Errorf("the conventional zone is %+v", z)
	}
	if diff := cmp.Diff(reportJSON{CapacitySectors: 512, LogicalBlockBytes: 512, WriteGranularityBytes: 512, ZoneSectors: 128, MaxAppendSectors: 96},
		reportJSON{CapacitySectors: r.CapacitySectors, LogicalBlockBytes: r.LogicalBlockBytes, WriteGranularityBytes: r.WriteGranularityBytes, ZoneSectors: r.ZoneSectors, MaxAppendSectors: r.MaxAppendSectors}); diff != "" {
		t.Errorf("the disk (-want +got):\n%s", diff)
	}
	if out := must(t, "report", path, "--map"); !strings.Contains(out, "n...\n") || !strings.Contains(out, "4 zones of 64 KiB: 3 empty") {
		t.Errorf("the map is\n%s", out)
	}
}

func TestZoneMap(t *testing.T) {
	var out bytes.Buffer
	info := &disk.ZonedInfo{Zones: 8, ZoneSectors: 0x20000, MaxOpen: 16}
	if err := (zoneMap{width: 80}).draw(&out, sampleZones(), info); err != nil {
		t.Fatal(err)
	}
	want := `      0  n.iocFRX
         █ ▁ ▇█▁
         n conventional  . empty  i implicitly open  o explicitly open
         c closed  F full  R read-only  X offline
         8 zones of 64 MiB: 1 empty, 2 open (at most 16), 1 closed, 1 full, 1 conventional, 1 read-only, 1 offline
         97.0 MiB of 304 MiB written, not counting conventional zones
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the map (-want +got):\n%s", diff)
	}
	out.Reset()
	if err := (zoneMap{width: 80, colour: true}).draw(&out, sampleZones(), info); err != nil {
		t.Fatal(err)
	}
	if want := "\x1b[36mF\x1b[0m"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in the coloured map:\n%q", want, out.String())
	}
}

// However many zones, and however narrow the terminal: the map keeps inside it,
// shows every zone once, and stays a screen high.
func TestZoneMapFits(t *testing.T) {
	for _, width := range []int{1, 24, 80, 211} {
		for _, n := range []int{1, 16, 17, 1000, 131072} {
			zones := make([]zone.Descriptor, n)
			for i := range zones {
				zones[i] = zone.Descriptor{Start: uint64(i) * 8, Length: 8, Capacity: 8, WP: uint64(i) * 8, Type: zone.SequentialWriteRequired, State: zone.Empty}
				if i%2 == 1 {
					zones[i].State, zones[i].WP = zone.Closed, zones[i].Start+4
				}
			}
			var out bytes.Buffer
			if err := (zoneMap{width: width}).draw(&out, zones, &disk.ZonedInfo{Zones: n, ZoneSectors: 8}); err != nil {
				t.Fatal(err)
			}
			cells := 0
			rows := strings.Split(out.String(), "\n")
			for _, row := range rows {
				if row != "" && row[mapMargin-3] != ' ' { // begins with the number of a zone
					cells += len(row) - mapMargin
					if utf8.RuneCountInString(row) > max(width, mapMargin+16) {
						t.Errorf("%d zones on %d columns: too wide: %q", n, width, row)
					}
				}
			}
			per := max(1, (n+cells-1)/cells)
			if cells != (n+per-1)/per || len(rows) > 2*mapRows+10 {
				t.Errorf("%d zones on %d columns: %d cells in %d lines", n, width, cells, len(rows))
			}
		}
	}
}

// Where the locale has only ASCII the map does with that.
func TestMapLocale(t *testing.T) {
	image := newImage(t, "--size", "1M", "--zone-size", "64K", "--full-zones", "3")
	for _, tt := range []struct {
		all, ctype, lang string
		ascii            bool
	}{
		{"C", "en_US.UTF-8", "en_US.UTF-8", true},
		{"C.UTF-8", "", "C", false},
		{"", "POSIX", "de_DE.utf8", true},
		{"", "de_DE.utf8", "C", false},
		{"", "", "C.UTF-8", false},
		{"", "", "en_US.ISO-8859-1", true},
		{"", "", "", true},
	} {
		t.Setenv("LC_ALL", tt.all)
		t.Setenv("LC_CTYPE", tt.ctype)
		t.Setenv("LANG", tt.lang)
		out := must(t, "report", image, "--map")
		if ascii := strings.IndexFunc(out, func(r rune) bool { return r > '~' }) < 0; ascii != tt.ascii || ascii != strings.Contains(out, "   8\n") {
			t.Errorf("%+v:\n%s", tt, out)
		}
	}
}
