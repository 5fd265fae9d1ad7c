package driver

import (
	"encoding/binary"
	"fmt"
)

// Zone types and states (VIRTIO_BLK_ZT_*, VIRTIO_BLK_ZS_*).
const (
	ZoneTypeConv = 1
	ZoneTypeSWR  = 2

	ZoneNotWP    = 0
	ZoneEmpty    = 1
	ZoneImpOpen  = 2
	ZoneExpOpen  = 3
	ZoneClosed   = 4
	ZoneReadOnly = 13
	ZoneFull     = 14
	ZoneOffline  = 15
)

// Sizes of a zone report, in bytes.
const (
	ReportHeaderBytes   = 64
	ZoneDescriptorBytes = 64
)

// A Zone is a zone descriptor of a report. Sectors are of 512 bytes.
type Zone struct {
	Capacity, Start, WP uint64
	Type, State         uint8
}

// ParseReport reads a zone report and appends its zones to dst. It refuses a
// report that claims more zones than fit, and reserved bytes that are not 0.
func ParseReport(dst []Zone, b []byte) ([]Zone, error) {
	if len(b) < ReportHeaderBytes {
		return dst, fmt.Errorf("zone report of %d bytes: its header has %d", len(b), ReportHeaderBytes)
	}
	n := binary.LittleEndian.Uint64(b)
	if room := uint64(len(b)-ReportHeaderBytes) / ZoneDescriptorBytes; n > room {
		return dst, fmt.Errorf("zone report claims %d zones in a buffer with room for %d", n, room)
	}
	if !zero(b[8:ReportHeaderBytes]) {
		return dst, fmt.Errorf("zone report: reserved bytes of the header are not 0")
	}
	for i := range n {
		d := b[ReportHeaderBytes+i*ZoneDescriptorBytes:][:ZoneDescriptorBytes]
		if !zero(d[26:]) {
			return dst, fmt.Errorf("zone report: reserved bytes of descriptor %d are not 0", i)
		}
		dst = append(dst, Zone{
			Capacity: binary.LittleEndian.Uint64(d[0:]),
			Start:    binary.LittleEndian.Uint64(d[8:]),
			WP:       binary.LittleEndian.Uint64(d[16:]),
			Type:     d[24],
			State:    d[25],
		})
	}
	return dst, nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// BlkConfigBytes is the size of the configuration space.
const BlkConfigBytes = 96

// BlkConfig is struct virtio_blk_config ("Device configuration layout"), without
// the fields that no device of ours has.
type BlkConfig struct {
	Capacity            uint64 // sectors
	SizeMax             uint32 // bytes
	SegMax              uint32
	BlkSize             uint32 // bytes
	PhysicalBlockExp    uint8  // log2 of the logical blocks in a physical one
	AlignmentOffset     uint8
	MinIOSize           uint16 // logical blocks
	OptIOSize           uint32 // logical blocks
	Writeback           uint8
	NumQueues           uint16
	MaxDiscardSectors   uint32
	MaxDiscardSeg       uint32
	DiscardAlignment    uint32 // sectors
	MaxZeroesSectors    uint32
	MaxZeroesSeg        uint32
	WriteZeroesMayUnmap uint8
	MaxEraseSectors     uint32
	MaxEraseSeg         uint32
	EraseAlignment      uint32 // sectors
	ZoneSectors         uint32
	MaxOpenZones        uint32
	MaxActiveZones      uint32
	MaxAppendSectors    uint32
	WriteGranularity    uint32 // bytes
	ZoneModel           uint8  // 0: not zoned, 1: host-managed, 2: host-aware
}

// WritebackOffset is where writeback is in the configuration space, in bytes.
const WritebackOffset = 32

// ParseBlkConfig reads a configuration space, all 96 bytes of it.
func ParseBlkConfig(b []byte) (BlkConfig, error) {
	if len(b) < BlkConfigBytes {
		return BlkConfig{}, fmt.Errorf("configuration space of %d bytes: must be %d", len(b), BlkConfigBytes)
	}
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	return BlkConfig{
		Capacity: binary.LittleEndian.Uint64(b), SizeMax: u32(8), SegMax: u32(12), BlkSize: u32(20),
		PhysicalBlockExp: b[24], AlignmentOffset: b[25], MinIOSize: u16(26), OptIOSize: u32(28),
		Writeback: b[WritebackOffset], NumQueues: u16(34),
		MaxDiscardSectors: u32(36), MaxDiscardSeg: u32(40), DiscardAlignment: u32(44),
		MaxZeroesSectors: u32(48), MaxZeroesSeg: u32(52), WriteZeroesMayUnmap: b[56],
		MaxEraseSectors: u32(60), MaxEraseSeg: u32(64), EraseAlignment: u32(68),
		ZoneSectors: u32(72), MaxOpenZones: u32(76), MaxActiveZones: u32(80),
		MaxAppendSectors: u32(84), WriteGranularity: u32(88), ZoneModel: b[92],
	}, nil
}
