package engine

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of zoned block devices (include/uapi/linux/blkzoned.h): direction,
// size of the argument, type 0x12, number.
const (
	blkReportZone   = 3<<30 | 16<<16 | 0x12<<8 | 130
	blkResetZone    = 1<<30 | 16<<16 | 0x12<<8 | 131
	blkOpenZone     = 1<<30 | 16<<16 | 0x12<<8 | 134
	blkCloseZone    = 1<<30 | 16<<16 | 0x12<<8 | 135
	blkFinishZone   = 1<<30 | 16<<16 | 0x12<<8 | 136
	blkReportZoneV2 = 3<<30 | 16<<16 | 0x12<<8 | 142
)

const (
	// ZoneReportBytes is the size of struct blk_zone_report before its zones, and
	// ZoneBytes that of each struct blk_zone.
	ZoneReportBytes = 16
	ZoneBytes       = 64

	zoneReportCached = 1 << 31 // BLK_ZONE_REP_CACHED
	sectorShift      = 9
)

// ManageZones carries out the zone operation code on [off, off+n) of a zoned
// block device, whole zones.
func ManageZones(fd int, code Code, off, n int64) error {
	requests := map[Code]uintptr{
		ZoneReset: blkResetZone, ZoneOpen: blkOpenZone, ZoneClose: blkCloseZone, ZoneFinish: blkFinishZone,
	}
	arg := [2]uint64{uint64(off) >> sectorShift, uint64(n) >> sectorShift} // struct blk_zone_range
	return Retry(func() error { return ioctl(fd, requests[code], unsafe.Pointer(&arg)) })
}

// ReportZones fills b with a struct blk_zone_report of the zones from byte off
// on, as many as fit. With cached the kernel may answer from its memory without
// asking the device; it then tells no open zone from a closed one, and ENOTTY
// says that it has no such report (before Linux 6.19).
func ReportZones(fd int, off int64, b []byte, cached bool) error {
	if len(b) < ZoneReportBytes+ZoneBytes {
		return unix.EINVAL
	}
	request, flags := uintptr(blkReportZone), uint32(0)
	if cached {
		request, flags = blkReportZoneV2, zoneReportCached
	}
	return Retry(func() error {
		binary.NativeEndian.PutUint64(b, uint64(off)>>sectorShift)
		binary.NativeEndian.PutUint32(b[8:], uint32((len(b)-ZoneReportBytes)/ZoneBytes))
		binary.NativeEndian.PutUint32(b[12:], flags)
		return ioctl(fd, request, unsafe.Pointer(&b[0]))
	})
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
