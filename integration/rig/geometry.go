package rig

import (
	"fmt"

	"github.com/zvhost/zvhost/virtio/driver"
)

// SectorBytes is the size of a sector.
const SectorBytes = 512

// A Geometry is a disk to try. Lengths are in sectors.
type Geometry struct {
	Name               string
	Size, Zone, Cap    uint64
	Conventional       int
	MaxOpen, MaxActive int
	Block              uint64
}

// Zones is how many there are.
func (g *Geometry) Zones() int { return int((g.Size + g.Zone - 1) / g.Zone) }

// Length is that of zone i.
func (g *Geometry) Length(i int) uint64 { return min(g.Zone, g.Size-uint64(i)*g.Zone) }

// Capacity is that of zone i.
func (g *Geometry) Capacity(i int) uint64 {
	if i < g.Conventional {
		return g.Length(i)
	}
	return min(g.Cap, g.Length(i))
}

// Create makes the disk's image, with a zvhost.
func (g *Geometry) Create(binary, image string) error {
	bytes := func(sectors uint64) string { return fmt.Sprint(sectors * SectorBytes) }
	_, err := Run(binary, "create", image, "--size", bytes(g.Size), "--zone-size", bytes(g.Zone),
		"--zone-capacity", bytes(g.Cap), "--conventional", fmt.Sprint(g.Conventional), "--block-size", bytes(g.Block),
		"--max-open", fmt.Sprint(g.MaxOpen), "--max-active", fmt.Sprint(g.MaxActive))
	return err
}

// StateNames are what zvhost calls the states of zones.
var StateNames = map[uint8]string{
	driver.ZoneNotWP: "not-wp", driver.ZoneEmpty: "empty", driver.ZoneImpOpen: "imp-open", driver.ZoneExpOpen: "exp-open",
	driver.ZoneClosed: "closed", driver.ZoneReadOnly: "read-only", driver.ZoneFull: "full", driver.ZoneOffline: "offline",
}
