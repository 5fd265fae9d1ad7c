package drive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// This file is what the kernel tells of a zoned block device
// (include/uapi/linux/blkzoned.h; Documentation/ABI/stable/sysfs-block).

// A kernelZone is struct blk_zone. Its numbers are sectors of the device.
type kernelZone struct {
	start, length, capacity, wp uint64
	typ                         zone.Type
	state                       zone.State
}

// What a cached report leaves open, beside the states that zones have.
const (
	condActive zone.State = 0xff // BLK_ZONE_COND_ACTIVE: open or closed
	// condUnwritten is our own: the kernel says empty, and knows nothing of zones that
	// were opened and have not been written (Linux 6.19 to 7.3).
	condUnwritten zone.State = 0xfe
)

// decodeZones reads a struct blk_zone_report. It fails when the kernel speaks of
// zones as no kernel that is known does.
func decodeZones(b []byte) ([]kernelZone, error) {
	ne := binary.NativeEndian
	if len(b) < engine.ZoneReportBytes {
		return nil, fmt.Errorf("the kernel's report has %d bytes", len(b))
	}
	n := int(ne.Uint32(b[8:]))
	if n > (len(b)-engine.ZoneReportBytes)/engine.ZoneBytes {
		return nil, fmt.Errorf("the kernel reports %d zones where there is room for fewer", n)
	}
	hasCapacity := ne.Uint32(b[12:])&1 != 0 // BLK_ZONE_REP_CAPACITY
	zones := make([]kernelZone, n)
	for i := range zones {
		e := b[engine.ZoneReportBytes+i*engine.ZoneBytes:]
		z := kernelZone{
			start: ne.Uint64(e), length: ne.Uint64(e[8:]), wp: ne.Uint64(e[16:]),
			typ: zone.Type(e[24]), state: zone.State(e[25]),
		}
		if z.capacity = z.length; hasCapacity && z.typ != zone.Conventional {
			z.capacity = ne.Uint64(e[32:])
		}
		switch {
		case z.typ != zone.Conventional && z.typ != zone.SequentialWriteRequired:
			return nil, disk.Unfitf("the zone at sector %d is of type %d, which is neither conventional nor sequential-write-required", z.start, z.typ)
		case !z.state.Valid() && z.state != condActive:
			return nil, fmt.Errorf("the zone at sector %d has condition %d, which is none that is known", z.start, z.state)
		case (z.typ == zone.Conventional) != (z.state == zone.NotWP) && z.state != zone.ReadOnly && z.state != zone.Offline:
			return nil, fmt.Errorf("the zone at sector %d is of type %d, but has condition %v", z.start, z.typ, z.state)
		case z.start+z.length < z.start:
			return nil, fmt.Errorf("the zone at sector %d has %d sectors: it would end nowhere", z.start, z.length)
		case z.capacity > z.length:
			return nil, fmt.Errorf("the zone at sector %d has more capacity, %d sectors, than length, %d", z.start, z.capacity, z.length)
		}
		zones[i] = z
	}
	return zones, nil
}

// entry is z as the table entry of zone i. Where the specification leaves the
// write pointer open it is the end of a full zone and the start of others.
func (z *kernelZone) entry(i int) zone.Entry {
	var written uint64
	switch z.state {
	case zone.ImpOpen, zone.ExpOpen, zone.Closed, condActive:
		written = min(max(z.wp, z.start)-z.start, z.capacity)
	case zone.ReadOnly:
		if z.wp >= z.start && z.wp-z.start <= z.capacity {
			written = z.wp - z.start
		}
	case zone.Full:
		written = z.capacity
	}
	if z.typ == zone.Conventional {
		written = 0
	}
	s := z.state
	switch s {
	case condActive:
		s = zone.Closed
	case condUnwritten:
		s = zone.Empty
	}
	return zone.Pack(i, s, written)
}

// A reporter fills b with a struct blk_zone_report from a sector on, as
// engine.ReportZones does.
type reporter func(sector uint64, b []byte, cached bool) error

// reporterOf asks the device fd.
func reporterOf(fd int) reporter {
	return func(sector uint64, b []byte, cached bool) error {
		if err := engine.ReportZones(fd, int64(sector)<<disk.SectorShift, b, cached); err != nil {
			return fmt.Errorf("report zones from sector %d on (BLKREPORTZONE): %w", sector, err)
		}
		return nil
	}
}

// reportChunk is how many zones are asked for at a time: 1 MiB of report.
const reportChunk = 1<<20/engine.ZoneBytes - 1

// reportZones reads all zones of a device of so many sectors. With cached it takes
// the kernel's own knowledge, where the kernel shares that: it is faster, but leaves
// open which zones without data are open: condUnwritten.
func reportZones(ask reporter, sectors uint64, cached bool) ([]kernelZone, error) {
	var all []kernelZone
	b := make([]byte, engine.ZoneReportBytes+reportChunk*engine.ZoneBytes)
	for at := uint64(0); at < sectors; {
		err := ask(at, b, cached)
		if cached && err != nil {
			cached = false
			continue
		}
		if err != nil {
			return nil, err
		}
		zones, err := decodeZones(b)
		if err == nil && cached {
			err = settleCached(ask, zones)
		}
		if err != nil {
			return nil, err
		}
		if len(zones) == 0 {
			return nil, fmt.Errorf("the kernel reports no zone at sector %d", at)
		}
		for _, z := range zones {
			if z.start != at || z.length == 0 || z.length > sectors-at {
				return nil, fmt.Errorf("the kernel's report has a zone of %d sectors at sector %d where one of at most %d at %d should be", z.length, z.start, sectors-at, at)
			}
			all = append(all, z)
			at += z.length
		}
	}
	return all, nil
}

// settleCached asks the device for the states of active zones that a cached report
// leaves open, from the first such zone to the last in one go: they tend to be
// neighbours, and are few where the device has a limit. Those without data are not
// few: of a new drive, all. They are asked about when somebody comes for them.
func settleCached(ask reporter, zones []kernelZone) error {
	for i := range zones {
		if zones[i].state == zone.Empty {
			zones[i].state = condUnwritten
		}
	}
	open := func(z kernelZone) bool { return z.state == condActive }
	first := slices.IndexFunc(zones, open)
	if first < 0 {
		return nil
	}
	last := len(zones) - 1
	for !open(zones[last]) {
		last--
	}
	at := zones[first].start
	b := make([]byte, engine.ZoneReportBytes+(last+1-first)*engine.ZoneBytes)
	if err := ask(at, b, false); err != nil {
		return err
	}
	sure, err := decodeZones(b)
	if err != nil || len(sure) != last+1-first || sure[0].start != at {
		return errors.Join(err, fmt.Errorf("%d zones are reported at sector %d and not %d", len(sure), at, last+1-first))
	}
	copy(zones[first:], sure)
	return nil
}
