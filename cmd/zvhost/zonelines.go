package main

import (
	"bufio"
	"fmt"
	"io"

	"github.com/zvhost/zvhost/backend/zone"
)

// zoneCondition is how util-linux' blkzone abbreviates a zone's state; the
// numbers of the states are those of BLK_ZONE_COND_* (linux/blkzoned.h), which
// virtio shares.
var zoneCondition = map[zone.State]string{
	zone.NotWP: "nw", zone.Empty: "em", zone.ImpOpen: "oi", zone.ExpOpen: "oe",
	zone.Closed: "cl", zone.ReadOnly: "ro", zone.Full: "fu", zone.Offline: "of",
}

// zoneTypeText is how blkzone names a zone's type (BLK_ZONE_TYPE_*).
var zoneTypeText = map[zone.Type]string{
	zone.Conventional:            "CONVENTIONAL",
	zone.SequentialWriteRequired: "SEQ_WRITE_REQUIRED",
}

// writeZoneLines writes the zones as blkzone report does inside a guest, byte
// for byte, so that the two can be compared.
func writeZoneLines(w io.Writer, zones []zone.Descriptor) error {
	b := bufio.NewWriter(w)
	for _, z := range zones {
		fmt.Fprintf(b, "  start: 0x%09x, len 0x%06x, cap 0x%06x, wptr 0x%06x reset:0 non-seq:0, zcond:%2d(%s) [type: %d(%s)]\n",
			z.Start, z.Length, z.Capacity, guestPointer(z),
			z.State, zoneCondition[z.State], z.Type, zoneTypeText[z.Type])
	}
	return b.Flush()
}

// guestPointer is the write pointer that blkzone shows, counted from the zone's
// start. The specification leaves it undefined in some states, and Linux'
// virtio_blk puts something there (drivers/block/virtio_blk.c,
// virtblk_parse_zone): the zone's end when it is full, all ones when it is
// read-only or offline.
func guestPointer(z zone.Descriptor) uint64 {
	switch {
	case z.Type == zone.Conventional:
		return 0
	case z.State == zone.Full:
		return z.Length
	case z.State == zone.ReadOnly || z.State == zone.Offline:
		return ^uint64(0) - z.Start
	}
	return z.WP - z.Start
}

// writtenSectors is how much of a zone holds data: all of it if it has no write pointer.
func writtenSectors(z zone.Descriptor) uint64 {
	switch {
	case z.Type == zone.Conventional || z.State == zone.Full:
		return z.Capacity
	case z.State == zone.Offline:
		return 0
	}
	return z.WP - z.Start
}
