package virtio

import (
	"encoding/binary"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/iovec"
)

const (
	reportHeaderBytes   = 64 // struct virtio_blk_zone_report up to zones
	zoneDescriptorBytes = 64 // struct virtio_blk_zone_descriptor
)

// decodeAppend makes r a zone append. It has no data to be read by the driver, so the
// device-writable part is the footer alone: append_sector at its beginning, status in its
// last byte. In the specification's struct virtio_blk_req_za the two are neighbours, 9
// bytes; Linux has 7 bytes of padding between them, since it sends its C structure
// unchanged (struct virtblk_req, in_hdr.zone_append, in drivers/block/virtio_blk.c). A
// request without room for both has at least room for a status.
func (b *Blk) decodeAppend(r *BlkRequest, out *iovec.Cursor, sector uint64) bool {
	short := r.Chain.InBytes < appendSectorBytes+statusBytes
	r.cut()
	if short {
		return r.done(zone.ErrInvalid)
	}
	return b.write(r, disk.OpAppend, out, sector)
}

// decodeZone reads the other requests of zoned disks. "If the
// VIRTIO_BLK_F_ZONED feature is not negotiated, the device MUST reject" them all
// with UNSUPP. Types between theirs are unknown.
func (b *Blk) decodeZone(r *BlkRequest, typ uint32, sector uint64, zoned bool) bool {
	if !zoned {
		return r.done(disk.ErrUnsupported)
	}
	var op disk.Op
	switch typ {
	case BlkTypeZoneReport:
		return b.report(r, sector)
	case BlkTypeZoneOpen:
		op = disk.OpOpen
	case BlkTypeZoneClose:
		op = disk.OpClose
	case BlkTypeZoneFinish:
		op = disk.OpFinish
	case BlkTypeZoneReset:
		op = disk.OpReset
	case BlkTypeZoneResetAll:
		op, sector = disk.OpResetAll, 0 // "the sector value is not used"
	default:
		return r.done(disk.ErrUnsupported)
	}
	// Zone management changes stored state, as a write does.
	r.Stable = b.WriteThrough()
	return r.submit(op, sector)
}

// report makes r a report: of the zones from the one that holds sector on, as many as fit
// completely (struct virtio_blk_zone_report). If zones change by themselves the disk is
// asked first.
func (b *Blk) report(r *BlkRequest, sector uint64) (submit bool) {
	z := b.info.Zoned
	if sector >= b.info.CapacitySectors || r.space < reportHeaderBytes {
		return r.done(zone.ErrInvalid)
	}
	first := sector / z.ZoneSectors
	n := min(uint64(z.Zones)-first, (r.space-reportHeaderBytes)/zoneDescriptorBytes)
	r.blk, r.Sector, r.Bytes = b, first*z.ZoneSectors, n
	if z.Moves && n > 0 {
		return r.submit(disk.OpReport, r.Sector)
	}
	return r.done(nil)
}

// putReport writes the report straight into the guest's buffer. nr_zones never
// exceeds what was transferred, as Linux walks so many descriptors whatever the
// length of its buffer (virtblk_report_zones in drivers/block/virtio_blk.c).
// Zones change while it is written; each descriptor is of one instant.
func (b *Blk) putReport(r *BlkRequest) {
	in := iovec.Cursor{Iov: r.Chain.In}
	var buf [zoneDescriptorBytes]byte // the header has the same size
	binary.LittleEndian.PutUint64(buf[:], r.Bytes)
	in.Write(buf[:])
	first := int(r.Sector / b.info.Zoned.ZoneSectors)
	for i := range int(r.Bytes) {
		putZone(&buf, b.disk.ReportZone(first+i))
		in.Write(buf[:])
	}
	r.filled = reportHeaderBytes + r.Bytes*zoneDescriptorBytes
}

// putZone lays out struct virtio_blk_zone_descriptor. Package backend numbers
// types and states as VIRTIO_BLK_ZT_* and VIRTIO_BLK_ZS_* do.
func putZone(d *[zoneDescriptorBytes]byte, z zone.Descriptor) {
	*d = [zoneDescriptorBytes]byte{}
	binary.LittleEndian.PutUint64(d[0:], z.Capacity)
	binary.LittleEndian.PutUint64(d[8:], z.Start)
	binary.LittleEndian.PutUint64(d[16:], z.WP)
	d[24] = uint8(z.Type)
	d[25] = uint8(z.State)
}
