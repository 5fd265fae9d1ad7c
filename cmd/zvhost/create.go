package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
)

func newCreate() *cobra.Command {
	var g geometryFlags
	var s startFlags
	cmd := &cobra.Command{
		Use:   "create FILE --size SIZE --zone-size SIZE",
		Short: "Create a zoned image",
		Long: `Creates a zoned image: one sparse file, which zvhost serves as a host-managed zoned
disk. An existing file is never replaced.

A SIZE is a number of bytes, or a number with a unit: K, M, G, T (powers of 1024).`,
		Example: `  zvhost create disk.zvh --size 8G --zone-size 64M
  zvhost create disk.zvh --size 8G --zone-size 64M --zone-capacity 48M \
      --conventional 4 --max-open 16 --max-active 32 --block-size 4096
  zvhost create broken.zvh --size 8G --zone-size 64M \
      --read-only-zones 3,5-7 --offline-zones 9 --fault write,zone=12,after=16`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			geo, err := g.geometry()
			if err != nil {
				return err
			}
			start, err := s.start(geo.Zones())
			if err != nil {
				return err
			}
			if err := image.CreateWith(args[0], geo, start); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s%s\n", oneLine(args[0]), describeGeometry(geo), describeStart(start))
			return err
		},
	}
	cmd.Flags().SortFlags = false
	g.add(cmd.Flags())
	s.add(cmd.Flags())
	return cmd
}

// describeGeometry describes a zoned disk in one line.
func describeGeometry(g zone.Geometry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s of %s", formatSize(g.CapacitySectors*sectorBytes), count(g.Zones(), "zone"), formatSize(g.ZoneSectors*sectorBytes))
	if g.ZoneCapacitySectors != g.ZoneSectors {
		fmt.Fprintf(&b, " (capacity %s)", formatSize(g.ZoneCapacitySectors*sectorBytes))
	}
	if g.ConventionalZones > 0 {
		fmt.Fprintf(&b, ", %d conventional", g.ConventionalZones)
	}
	limit := func(name string, n uint32) {
		if n > 0 {
			fmt.Fprintf(&b, ", at most %d %s", n, name)
		}
	}
	limit("open", g.MaxOpen)
	limit("active", g.MaxActive)
	fmt.Fprintf(&b, ", %d-byte blocks, appends up to %s", g.BlockSize, formatSize(uint64(g.MaxAppendSectors)*sectorBytes))
	return b.String()
}

// count is a number and what it counts.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
