package virtio

import (
	"encoding/binary"
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/iovec"
)

// Decode reads the request in r.Chain and fills in r.Request ("Device Operation"). It
// returns true if the request has to be submitted to the disk; otherwise the request is
// finished, and r.Complete may be called at once.
//
// Header, data and footer may be split into descriptors in any way: the header is the first
// 16 device-readable bytes, the status the last device-writable one, and the data is what
// is between, on the side given by the type. Bytes on the other side, and data of requests
// that have none, are ignored.
//
// A chain that Pop found malformed is finished with its Err, and with its status if there
// is a byte for it.
func (b *Blk) Decode(r *BlkRequest) (submit bool) {
	r.begin()
	c := &r.Chain
	switch {
	case c.Err != nil && c.InBytes < statusBytes:
		return r.done(c.Err)
	case c.Err != nil:
		r.cut()
		return r.done(c.Err)
	case c.InBytes < statusBytes:
		return r.done(errNoStatus)
	}
	var h [headerBytes]byte
	out := iovec.Cursor{Iov: c.Out}
	if !out.Read(h[:]) {
		r.cut()
		return r.done(errShortHeader)
	}
	typ := binary.LittleEndian.Uint32(h[0:])
	sector := binary.LittleEndian.Uint64(h[8:])
	features := b.negotiated.Load()
	zoned := features&BlkFeatureZoned != 0

	if typ == BlkTypeZoneAppend && zoned {
		return b.decodeAppend(r, &out, sector)
	}
	r.cut()
	if typ >= BlkTypeZoneAppend {
		return b.decodeZone(r, typ, sector, zoned)
	}
	if typ == BlkTypeGetID {
		return b.getID(r)
	}
	if b.info.Zoned != nil && !zoned {
		// The session refused the features, and a driver that continues all the same must
		// not use the disk as an ordinary one.
		return r.done(errNoZoned)
	}
	switch typ {
	case BlkTypeIn:
		r.Iov, r.Bytes = c.In, r.space
		if err := b.tooLarge(r, features); err != nil {
			return r.done(err)
		}
		return r.submit(disk.OpRead, sector)
	case BlkTypeOut:
		return b.write(r, disk.OpWrite, &out, sector)
	case BlkTypeFlush:
		return r.submit(disk.OpFlush, 0)
	case BlkTypeDiscard:
		if features&BlkFeatureDiscard != 0 {
			return b.ranges(r, disk.OpDiscard, &out, r.left(), b.info.MaxDiscardSectors, 0)
		}
	case BlkTypeWriteZeroes:
		if features&BlkFeatureWriteZeroes != 0 {
			return b.ranges(r, disk.OpWriteZeroes, &out, r.left(), b.info.MaxWriteZeroesSectors, segmentFlagUnmap)
		}
	case BlkTypeSecureErase:
		if features&BlkFeatureSecureErase != 0 {
			return b.erase(r, &out)
		}
	}
	// GET_LIFETIME is not offered: an image does not wear. The rest is unknown.
	return r.done(disk.ErrUnsupported)
}

// cut removes the status from the device-writable part.
func (r *BlkRequest) cut() {
	r.Chain.In, r.status = iovec.CutLast(r.Chain.In)
	r.space = r.Chain.InBytes - statusBytes
}

// write makes r a write of the bytes behind the header.
func (b *Blk) write(r *BlkRequest, op disk.Op, out *iovec.Cursor, sector uint64) bool {
	r.Iov, r.Bytes = out.Rest(), r.Chain.OutBytes-headerBytes
	if err := b.tooLarge(r, b.negotiated.Load()); err != nil {
		return r.done(err)
	}
	r.Stable = b.WriteThrough()
	return r.submit(op, sector)
}

// maxRequestBytes is how much data one request may have, whatever the driver: what UEFI
// firmware sends in one segment, which accepts neither limit (VerifyReadWriteRequest in
// EDK2's OvmfPkg/VirtioBlkDxe). A driver that accepts both sends at most half of it.
const maxRequestBytes = 1 << 30

// tooLarge returns what is wrong with the size of r's data. A driver that has accepted
// SEG_MAX or SIZE_MAX must comply with it: Linux and FreeBSD do. It may split header, data
// and footer in any way, so the longest descriptor may contain header and footer bytes as
// well.
func (b *Blk) tooLarge(r *BlkRequest, features uint64) error {
	const margin = headerBytes + appendSectorBytes + statusBytes
	switch n := len(r.Iov) - r.Chain.seams; {
	case r.Bytes > maxRequestBytes:
		return fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, r.Bytes, maxRequestBytes)
	case features&BlkFeatureSegMax != 0 && n > int(b.segMax):
		return fmt.Errorf("%w: %d segments, but seg_max is %d", errTooLarge, n, b.segMax)
	case features&BlkFeatureSizeMax != 0 && r.Chain.longest > maxSegmentBytes+margin:
		return fmt.Errorf("%w: a segment of %d bytes, but size_max is %d", errTooLarge, r.Chain.longest, maxSegmentBytes)
	}
	return nil
}

// getID answers GET_ID: the serial number, padded with NULs to 20 bytes.
func (b *Blk) getID(r *BlkRequest) bool {
	if r.space != serialBytes {
		return r.done(errIDLength)
	}
	in := iovec.Cursor{Iov: r.Chain.In}
	r.filled = uint64(in.Write(b.serial[:]))
	return r.done(nil)
}

// left is the number of device-readable bytes behind the header.
func (r *BlkRequest) left() uint64 { return r.Chain.OutBytes - headerBytes }

// erase reads a SECURE_ERASE. unmap is a known flag without effect here. Linux derives the
// direction of the data from the type's lowest bit (virtblk_add_req in
// drivers/block/virtio_blk.c), and that of SECURE_ERASE is clear: it sends the segments in
// a device-writable buffer. They are read from there if the device-readable part has none.
func (b *Blk) erase(r *BlkRequest, out *iovec.Cursor) bool {
	n := r.left()
	if n == 0 {
		out, n = &iovec.Cursor{Iov: r.Chain.In}, r.space
	}
	return b.ranges(r, disk.OpSecureErase, out, n, b.info.MaxEraseSectors, segmentFlagUnmap)
}

// ranges reads the segments, n bytes, of a DISCARD, WRITE_ZEROES or SECURE_ERASE. "The
// device MUST set the status byte to VIRTIO_BLK_S_UNSUPP for discard, secure erase and
// write zeroes commands if any unknown flag is set", and unmap is unknown to discard.
// Nothing is submitted unless all segments are valid. The disk refuses sectors beyond its
// capacity.
func (b *Blk) ranges(r *BlkRequest, op disk.Op, data *iovec.Cursor, n uint64, maxSectors, flagsKnown uint32) bool {
	if n == 0 || n%segmentBytes != 0 || n > maxRanges*segmentBytes {
		return r.done(errSegments)
	}
	var tooLong error
	for ; n > 0; n -= segmentBytes {
		var s [segmentBytes]byte
		data.Read(s[:])
		sectors := binary.LittleEndian.Uint32(s[8:])
		flags := binary.LittleEndian.Uint32(s[12:])
		if flags&^flagsKnown != 0 {
			return r.done(disk.ErrUnsupported)
		}
		if sectors > maxSectors {
			tooLong = errRangeLength
		}
		r.Ranges = append(r.Ranges, disk.Range{
			Sector:  binary.LittleEndian.Uint64(s[0:]),
			Sectors: sectors,
			Unmap:   flags&segmentFlagUnmap != 0,
		})
	}
	if tooLong != nil {
		return r.done(tooLong)
	}
	r.Stable = b.WriteThrough()
	return r.submit(op, r.Ranges[0].Sector)
}
