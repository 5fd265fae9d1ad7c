package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// geometryFlags are the options that describe a zoned image.
type geometryFlags struct {
	size, zoneSize, zoneCapacity, maxAppend, blockSize sizeFlag

	conventional       int
	maxOpen, maxActive uint32
}

// geometryNames are the flags that add defines, in the order of the help.
var geometryNames = []string{
	"size", "zone-size", "zone-capacity", "conventional", "max-open", "max-active", "max-append", "block-size",
}

func (g *geometryFlags) add(fs *pflag.FlagSet) {
	fs.Var(&g.size, "size", "size of the disk, such as 8G")
	fs.Var(&g.zoneSize, "zone-size", "size of a zone, a power of two such as 64M; the last zone may be smaller")
	fs.Var(&g.zoneCapacity, "zone-capacity", "writable part of a zone (default: all of it)")
	fs.IntVar(&g.conventional, "conventional", 0, "make the first `N` zones conventional")
	fs.Uint32Var(&g.maxOpen, "max-open", 0, "at most `N` zones open at once (0: no limit)")
	fs.Uint32Var(&g.maxActive, "max-active", 0, "at most `N` zones active, open or closed, at once (0: no limit)")
	fs.Var(&g.maxAppend, "max-append", "largest zone append (default: 1M, or the zone capacity if that is less)")
	fs.Var(&g.blockSize, "block-size", "logical block size, 512 or 4096 (default: 512; for a device its own)")
}

// geometry builds the geometry from the flags and fills in the defaults. An error is a
// usage error.
func (g *geometryFlags) geometry() (zone.Geometry, error) {
	var geo zone.Geometry
	for _, need := range []struct {
		flag       *sizeFlag
		name, what string
	}{
		{&g.size, "size", "the size of the disk, such as --size 8G"},
		{&g.zoneSize, "zone-size", "the size of a zone, such as --zone-size 64M"},
	} {
		switch {
		case need.flag.text == "":
			return geo, usagef("--%s is missing: give %s", need.name, need.what)
		case need.flag.bytes == 0:
			return geo, usagef("--%s %s: must be larger than 0: give %s", need.name, need.flag.text, need.what)
		}
	}
	var err error
	sectors := func(f *sizeFlag, name string) uint64 {
		n, e := f.sectors(name)
		if err == nil {
			err = e
		}
		return n
	}
	geo = zone.Geometry{
		CapacitySectors:     sectors(&g.size, "size"),
		ZoneSectors:         sectors(&g.zoneSize, "zone-size"),
		ZoneCapacitySectors: sectors(&g.zoneCapacity, "zone-capacity"),
		ConventionalZones:   g.conventional,
		MaxOpen:             g.maxOpen,
		MaxActive:           g.maxActive,
	}
	appendSectors := sectors(&g.maxAppend, "max-append")
	switch {
	case err != nil:
		return geo, err
	case appendSectors != uint64(uint32(appendSectors)):
		return geo, usagef("--max-append %s is too large: it must be below 2T", g.maxAppend.text)
	case g.blockSize.bytes != uint64(uint32(g.blockSize.bytes)):
		return geo, usagef("--block-size %s is too large: it must be 512 or 4096", g.blockSize.text)
	}
	geo.MaxAppendSectors = uint32(appendSectors)
	geo.BlockSize = uint32(g.blockSize.bytes)
	if err := geo.Complete(); err != nil {
		return geo, &usageError{err}
	}
	return geo, nil
}

// modeFlag is a flag whose value is octal permission bits (pflag.Value).
type modeFlag struct{ mode fs.FileMode }

func (f *modeFlag) Set(s string) error {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return fmt.Errorf("not permission bits: want octal digits such as 0660")
	}
	f.mode = fs.FileMode(n)
	return nil
}

func (f *modeFlag) String() string { return fmt.Sprintf("%#o", uint32(f.mode)) }
func (f *modeFlag) Type() string   { return "MODE" }

// windowFlag is a flag whose value is a range of zones (pflag.Value).
type windowFlag struct{ window *disk.Window }

func (f *windowFlag) Set(s string) error {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, err := strconv.Atoi(first)
	b, err2 := strconv.Atoi(last)
	if err != nil || err2 != nil || a < 0 || b < a {
		return fmt.Errorf("not a range of zones: want the first and the last one, such as 16-79")
	}
	f.window = &disk.Window{First: a, Last: b}
	return nil
}

func (f *windowFlag) String() string {
	if f.window == nil {
		return ""
	}
	return fmt.Sprintf("%d-%d", f.window.First, f.window.Last)
}

func (f *windowFlag) Type() string { return "FIRST-LAST" }

// writeJSON writes v as indented JSON.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
