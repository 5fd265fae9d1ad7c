package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
)

func newReport() *cobra.Command {
	var asJSON, asMap bool
	var window windowFlag
	cmd := &cobra.Command{
		Use:   "report FILE",
		Short: "Show the zones of an image, or of a zoned drive",
		Long: `Shows the zones of a zoned image, also while it is being served, in the format of
util-linux' blkzone report: in the guest that command prints the same lines. All numbers
are sectors of 512 bytes; wptr counts from the start of the zone.`,
		Example: `  zvhost report disk.zvh
  zvhost report disk.zvh --map
  zvhost report disk.zvh --json | jq '[.zones[] | select(.state == "full")] | length'`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON && asMap {
				return usagef("--json and --map exclude each other: give one")
			}
			r, err := readReport(args[0], window.window)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case asJSON:
				return writeJSON(out, newReportJSON(args[0], r))
			case asMap:
				return drawMap(out, args[0], r)
			}
			return writeZoneLines(out, r.Zones)
		},
	}
	cmd.Flags().Var(&window, "zones", "show only these zones of a zoned device, numbered from 0 as serve --zones does")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&asMap, "map", false, "draw a column for each zone, with its state and how much is written")
	return cmd
}

// readReport reads the zones of an image, of a zoned block device, or of a window
// of that.
func readReport(path string, w *disk.Window) (disk.Report, error) {
	if w == nil {
		return backend.ReadReport(path)
	}
	if kind, err := image.Probe(path); err != nil {
		return disk.Report{}, err
	} else if kind != disk.KindZonedDevice {
		return disk.Report{}, usagef("--zones is for zoned block devices, and %s is not one", path)
	}
	return backend.ReadDriveReport(path, w)
}

func drawMap(w io.Writer, file string, r disk.Report) error {
	serving := ""
	if r.InUse {
		serving = " (being served)"
	}
	if _, err := fmt.Fprintf(w, "%s%s: %s\n", file, serving, formatSize(r.Info.CapacitySectors*sectorBytes)); err != nil {
		return err
	}
	columns, colour := terminal(w)
	return zoneMap{width: columns, colour: colour, ascii: !utf8Locale()}.draw(w, r.Zones, r.Info.Zoned)
}

// reportJSON is the schema of zvhost report --json. Names say what a number
// counts; sectors are 512 bytes.
type reportJSON struct {
	File                  string     `json:"file"`
	UUID                  string     `json:"uuid"`
	BeingServed           bool       `json:"being_served"`
	CapacitySectors       uint64     `json:"capacity_sectors"`
	LogicalBlockBytes     uint32     `json:"logical_block_bytes"`
	WriteGranularityBytes uint32     `json:"write_granularity_bytes"`
	ZoneSectors           uint64     `json:"zone_sectors"`
	MaxOpenZones          uint32     `json:"max_open_zones"`   // 0: no limit
	MaxActiveZones        uint32     `json:"max_active_zones"` // 0: no limit
	MaxAppendSectors      uint32     `json:"max_append_sectors"`
	Zones                 []zoneJSON `json:"zones"`
}

type zoneJSON struct {
	Number          int    `json:"number"`
	StartSector     uint64 `json:"start_sector"`
	LengthSectors   uint64 `json:"length_sectors"`
	CapacitySectors uint64 `json:"capacity_sectors"`
	// WritePointer is a sector of the disk; null for zones without a meaningful one:
	// conventional, full, read-only and offline.
	WritePointer *uint64 `json:"write_pointer_sector"`
	Type         string  `json:"type"`
	State        string  `json:"state"`
}

func newReportJSON(file string, r disk.Report) reportJSON {
	z := r.Info.Zoned
	out := reportJSON{
		File:                  file,
		UUID:                  formatUUID(r.UUID),
		BeingServed:           r.InUse,
		CapacitySectors:       r.Info.CapacitySectors,
		LogicalBlockBytes:     r.Info.LogicalBlockSize,
		WriteGranularityBytes: z.WriteGranularity,
		ZoneSectors:           z.ZoneSectors,
		MaxOpenZones:          z.MaxOpen,
		MaxActiveZones:        z.MaxActive,
		MaxAppendSectors:      z.MaxAppendSectors,
		Zones:                 make([]zoneJSON, len(r.Zones)),
	}
	for i, zn := range r.Zones {
		out.Zones[i] = zoneJSON{
			Number:          i,
			StartSector:     zn.Start,
			LengthSectors:   zn.Length,
			CapacitySectors: zn.Capacity,
			Type:            "sequential",
			State:           zn.State.String(),
		}
		if zn.Type == zone.Conventional {
			out.Zones[i].Type = "conventional"
		}
		switch zn.State {
		case zone.Empty, zone.ImpOpen, zone.ExpOpen, zone.Closed:
			out.Zones[i].WritePointer = &r.Zones[i].WP
		}
	}
	return out
}

func formatUUID(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
