package driver

import (
	"encoding/binary"
	"fmt"
)

// Feature bits of the block device ("Block Device / Feature bits").
const (
	BlkSizeMax     uint64 = 1 << 1
	BlkSegMax      uint64 = 1 << 2
	BlkRO          uint64 = 1 << 5
	BlkBlkSize     uint64 = 1 << 6
	BlkFlush       uint64 = 1 << 9
	BlkTopology    uint64 = 1 << 10
	BlkConfigWCE   uint64 = 1 << 11
	BlkMQ          uint64 = 1 << 12
	BlkDiscard     uint64 = 1 << 13
	BlkWriteZeroes uint64 = 1 << 14
	BlkSecureErase uint64 = 1 << 16
	BlkZoned       uint64 = 1 << 17
)

// Request types (VIRTIO_BLK_T_*).
const (
	TypeIn           uint32 = 0
	TypeOut          uint32 = 1
	TypeFlush        uint32 = 4
	TypeGetID        uint32 = 8
	TypeGetLifetime  uint32 = 10
	TypeDiscard      uint32 = 11
	TypeWriteZeroes  uint32 = 13
	TypeSecureErase  uint32 = 14
	TypeZoneAppend   uint32 = 15
	TypeZoneReport   uint32 = 16
	TypeZoneOpen     uint32 = 18
	TypeZoneClose    uint32 = 20
	TypeZoneFinish   uint32 = 22
	TypeZoneReset    uint32 = 24
	TypeZoneResetAll uint32 = 26
)

var typeWords = map[uint32]string{
	TypeIn: "read", TypeOut: "write", TypeFlush: "flush", TypeGetID: "request for the serial number",
	TypeGetLifetime: "request for the lifetime", TypeDiscard: "discard", TypeWriteZeroes: "write-zeroes",
	TypeSecureErase: "secure erase", TypeZoneAppend: "zone append", TypeZoneReport: "zone report",
	TypeZoneOpen: "zone open", TypeZoneClose: "zone close", TypeZoneFinish: "zone finish",
	TypeZoneReset: "zone reset", TypeZoneResetAll: "reset of all zones",
}

// TypeString says in words what a request does.
func TypeString(typ uint32) string {
	if words, ok := typeWords[typ]; ok {
		return words
	}
	return fmt.Sprintf("request of unknown type %d", typ)
}

// Request statuses (VIRTIO_BLK_S_*).
const (
	StatusOK                 byte = 0
	StatusIOErr              byte = 1
	StatusUnsupp             byte = 2
	StatusZoneInvalidCmd     byte = 3
	StatusZoneUnalignedWP    byte = 4
	StatusZoneOpenResource   byte = 5
	StatusZoneActiveResource byte = 6
	// StatusNone is what AddBlk fills in beforehand: the device has written none.
	StatusNone byte = 0xff
)

var statusNames = [...]string{
	"OK", "IOERR", "UNSUPP", "ZONE_INVALID_CMD", "ZONE_UNALIGNED_WP", "ZONE_OPEN_RESOURCE", "ZONE_ACTIVE_RESOURCE",
}

// StatusString names a status as the specification does.
func StatusString(s byte) string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", s)
}

// Sizes of what surrounds the data of a request, in bytes.
const (
	HeaderBytes       = 16 // type, reserved, sector
	StatusBytes       = 1
	AppendFooterBytes = 9  // append_sector, status
	LinuxFooterBytes  = 16 // the same as Linux sends it, padded before the status
	SegmentBytes      = 16 // one range of a DISCARD or WRITE_ZEROES
	IDBytes           = 20 // what GET_ID answers
	// BlkScratchBytes is what AddBlk needs beside the data.
	BlkScratchBytes = 32
)

// Blk is a block request in the making.
type Blk struct {
	Type   uint32
	Sector uint64
	Data   []Buffer
	// Scratch is the guest address of BlkScratchBytes bytes that are the
	// request's own, for header and footer, until it is used.
	Scratch uint64
	// LinuxFooter has a zone append end with LinuxFooterBytes, as Linux does it
	// (struct virtblk_req in drivers/block/virtio_blk.c).
	LinuxFooter bool
	// Table is the request's own memory for an indirect table, len(Data)+2
	// descriptors of 16 bytes; with no length the request uses descriptors of the
	// ring.
	Table Buffer
}

// AddBlk puts a block request into the ring, framed as Linux does it: one
// descriptor for the header, those of the data, and one for the footer.
func (r *Ring) AddBlk(b *Blk, token uint64) (head uint16, err error) {
	s, err := r.mem.Bytes(b.Scratch, BlkScratchBytes)
	if err != nil {
		return 0, fmt.Errorf("scratch of a block request: %w", err)
	}
	PutHeader(s, b.Type, b.Sector)
	foot := Buffer{b.Scratch + HeaderBytes, b.footerBytes()}
	for i := range foot.Len {
		s[HeaderBytes+i] = StatusNone
	}
	r.out = append(r.out[:0], Buffer{b.Scratch, HeaderBytes})
	r.in = r.in[:0]
	if DataIsWritten(b.Type) {
		r.in = append(r.in, b.Data...)
	} else {
		r.out = append(r.out, b.Data...)
	}
	r.in = append(r.in, foot)
	if b.Table.Len != 0 {
		return r.AddIndirect(0, b.Table, r.out, r.in, token)
	}
	return r.Add(r.out, r.in, token)
}

// footerBytes is the length of what follows the data.
func (b *Blk) footerBytes() uint32 {
	switch {
	case b.Type != TypeZoneAppend:
		return StatusBytes
	case b.LinuxFooter:
		return LinuxFooterBytes
	}
	return AppendFooterBytes
}

// BlkResult reads the footer of a used request that AddBlk has put there: its
// status, and for a zone append the sector.
func (r *Ring) BlkResult(b *Blk) (status byte, appendSector uint64, err error) {
	s, err := r.mem.Bytes(b.Scratch, BlkScratchBytes)
	if err != nil {
		return 0, 0, fmt.Errorf("scratch of a block request: %w", err)
	}
	s = s[HeaderBytes:]
	status = s[b.footerBytes()-1]
	if b.Type == TypeZoneAppend {
		appendSector = binary.LittleEndian.Uint64(s)
	}
	return status, appendSector, nil
}

// DataIsWritten says whether the data of a request of that type is written by
// the device.
func DataIsWritten(typ uint32) bool {
	switch typ {
	case TypeIn, TypeGetID, TypeGetLifetime, TypeZoneReport:
		return true
	}
	return false
}

// PutHeader writes the header of a request to the first 16 bytes of dst.
func PutHeader(dst []byte, typ uint32, sector uint64) {
	binary.LittleEndian.PutUint32(dst[0:], typ)
	binary.LittleEndian.PutUint32(dst[4:], 0)
	binary.LittleEndian.PutUint64(dst[8:], sector)
}

// PutSegment writes one range of a DISCARD or WRITE_ZEROES to the first 16 bytes
// of dst; the one flag there is, unmap, is 1.
func PutSegment(dst []byte, sector uint64, sectors, flags uint32) {
	binary.LittleEndian.PutUint64(dst[0:], sector)
	binary.LittleEndian.PutUint32(dst[8:], sectors)
	binary.LittleEndian.PutUint32(dst[12:], flags)
}
