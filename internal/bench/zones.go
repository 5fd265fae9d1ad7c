package bench

import (
	"fmt"

	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A filler writes zones completely, and resets full ones: several zones at once, with any
// number of appends in flight in each, or with one write.
type filler struct {
	typ     uint32 // driver.TypeZoneAppend or driver.TypeOut
	bytes   int
	sectors uint64 // the same
	perZone int    // requests in flight in a zone
	zones   []fillZone
	turn    int     // the zone to check first
	inZone  []int32 // by Tag of a request: its zone
}

// fillZone is a zone in use.
type fillZone struct {
	start, capacity uint64 // sectors
	given           uint64 // sectors that requests have been sent for
	inFlight        int
}

// next uses the zones in rotation.
func (f *filler) next(r *blkclient.Request) bool {
	for range f.zones {
		i := f.turn
		if f.turn++; f.turn == len(f.zones) {
			f.turn = 0
		}
		z := &f.zones[i]
		switch {
		case z.given+f.sectors <= z.capacity:
			if z.inFlight >= f.perZone {
				continue
			}
			r.Type, r.Sector = f.typ, z.start
			if f.typ == driver.TypeOut {
				r.Sector += z.given
			}
			r.LinuxFooter = true
			r.SetLen(f.bytes)
			z.given += f.sectors
		case z.inFlight == 0:
			r.Type, r.Sector = driver.TypeZoneReset, z.start
			r.SetLen(0)
			z.given = z.capacity // until it is done no other write fits
		default:
			continue
		}
		z.inFlight++
		f.inZone[r.Tag] = int32(i)
		return true
	}
	return false
}

func (f *filler) done(r *blkclient.Request) {
	z := &f.zones[f.inZone[r.Tag]]
	z.inFlight--
	if r.Type == driver.TypeZoneReset {
		z.given = 0
	}
}

// fillers chooses the zones that are written, resets them, and distributes them over the
// queues.
func fillers(c *Config, d *blkclient.Disk) ([]work, error) {
	q := d.Queue(0)
	all, err := q.ReportAll()
	if err != nil {
		return nil, err
	}
	sectors := uint64(c.BlockBytes) / 512
	f := filler{typ: driver.TypeOut, bytes: c.BlockBytes, sectors: sectors, perZone: 1}
	if c.RW == Append {
		f.typ, f.perZone = driver.TypeZoneAppend, c.Depth
		if most := d.Config.MaxAppendSectors; sectors > uint64(most) {
			return nil, fmt.Errorf("--bs: the disk takes appends of up to %d bytes, %d are too many", uint64(most)*512, c.BlockBytes)
		}
	}
	if limit := int(d.Config.MaxOpenZones); limit != 0 && c.Zones > limit {
		return nil, fmt.Errorf("--zones=%d: the disk allows %d open zones", c.Zones, limit)
	}
	for _, z := range all {
		if len(f.zones) == c.Zones {
			break
		}
		if z.Type != driver.ZoneTypeSWR || z.State == driver.ZoneReadOnly || z.State == driver.ZoneOffline || z.Capacity < sectors {
			continue
		}
		if z.State != driver.ZoneEmpty {
			if err := q.Zone(driver.TypeZoneReset, z.Start); err != nil {
				return nil, err
			}
		}
		f.zones = append(f.zones, fillZone{start: z.Start, capacity: z.Capacity})
	}
	switch n := len(f.zones); {
	case n < c.Zones:
		return nil, fmt.Errorf("--zones=%d: the disk has %d zones that requests of %d bytes can be written to", c.Zones, n, c.BlockBytes)
	case n < c.Queues:
		return nil, fmt.Errorf("--zones=%d: each of the %d queues needs a zone of its own: give at least as many zones", c.Zones, c.Queues)
	}
	works := make([]work, c.Queues)
	for i := range works {
		part := f
		part.zones = f.zones[i*c.Zones/c.Queues : (i+1)*c.Zones/c.Queues]
		part.inZone = make([]int32, c.Depth)
		works[i] = &part
	}
	return works, nil
}

// writtenExtents are the blocks of a zoned disk that were written: reading others would
// measure the generation of zeroes.
func writtenExtents(c *Config, d *blkclient.Disk) (list []extent, blocks uint64, err error) {
	all, err := d.Queue(0).ReportAll()
	if err != nil {
		return nil, 0, err
	}
	sectors := uint64(c.BlockBytes) / 512
	end := uint64(0) // of the last extent
	for _, z := range all {
		n := uint64(0)
		switch z.State {
		case driver.ZoneNotWP, driver.ZoneFull, driver.ZoneReadOnly:
			n = z.Capacity
		case driver.ZoneImpOpen, driver.ZoneExpOpen, driver.ZoneClosed:
			n = z.WP - z.Start
		}
		if n /= sectors; n == 0 {
			continue
		}
		if len(list) == 0 || end != z.Start {
			list = append(list, extent{z.Start, blocks})
		}
		end = z.Start + n*sectors
		blocks += n
	}
	if blocks == 0 {
		return nil, 0, fmt.Errorf("no zone has %d bytes to read: write some first, with --rw=append or --rw=write", c.BlockBytes)
	}
	return list, blocks, nil
}
