package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Zone conditions and types (linux/blkzoned.h).
const (
	notWP    = 0
	empty    = 1
	impOpen  = 2
	expOpen  = 3
	closed   = 4
	readOnly = 13
	full     = 14
	offline  = 15

	conventional = 1
)

var stateNames = map[uint8]string{
	notWP: "not-wp", empty: "empty", impOpen: "imp-open", expOpen: "exp-open", closed: "closed",
	readOnly: "read-only", full: "full", offline: "offline",
}

// Zone operations: ioctls on a range of zones, struct blk_zone_range.
const (
	opReset  = 1<<30 | 16<<16 | 0x12<<8 | 131
	opOpen   = 1<<30 | 16<<16 | 0x12<<8 | 134
	opClose  = 1<<30 | 16<<16 | 0x12<<8 | 135
	opFinish = 1<<30 | 16<<16 | 0x12<<8 | 136

	reportZones = 3<<30 | 16<<16 | 0x12<<8 | 130
)

const sectorBytes = 512

// A zone is a zone as the kernel reports it. Lengths are sectors of 512 bytes.
type zone struct {
	start, length, wp, capacity uint64
	kind, state                 uint8
}

// A device is a zoned disk, open for direct I/O.
type device struct {
	f                  *os.File
	name               string
	block              uint64 // sectors
	zones              []zone // as they were at the beginning
	maxOpen, maxActive int    // 0 for none
	buf                []byte // a page for direct I/O, aligned
}

func openDevice(path string) (*device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	d := &device{f: f, name: filepath.Base(path)}
	if d.buf, err = unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		return nil, err
	}
	bytes, err := d.limit("logical_block_size")
	if err != nil {
		return nil, err
	}
	d.block = uint64(bytes) / sectorBytes
	if d.maxOpen, err = d.limit("max_open_zones"); err != nil {
		return nil, err
	}
	if d.maxActive, err = d.limit("max_active_zones"); err != nil {
		return nil, err
	}
	n, err := d.limit("nr_zones")
	if err != nil {
		return nil, err
	}
	d.zones, err = d.report(0, n)
	return d, err
}

// limit reads a number of the disk's queue in sysfs.
func (d *device) limit(name string) (int, error) {
	b, err := os.ReadFile(filepath.Join("/sys/block", d.name, "queue", name))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// ioctl passes b, a structure of the kernel's.
func (d *device) ioctl(request uintptr, b []byte) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), request, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return e
	}
	return nil
}

// report reads up to n zones from sector on.
func (d *device) report(sector uint64, n int) ([]zone, error) {
	const header, each = 16, 64 // struct blk_zone_report, struct blk_zone
	le := binary.LittleEndian
	b := make([]byte, header+each*n)
	le.PutUint64(b, sector)
	le.PutUint32(b[8:], uint32(n))
	if err := d.ioctl(reportZones, b); err != nil {
		return nil, fmt.Errorf("report zones: %w", err)
	}
	zones := make([]zone, le.Uint32(b[8:]))
	for i := range zones {
		z := b[header+each*i:]
		zones[i] = zone{
			start: le.Uint64(z), length: le.Uint64(z[8:]), wp: le.Uint64(z[16:]), capacity: le.Uint64(z[32:]),
			kind: z[24], state: z[25],
		}
	}
	return zones, nil
}

// manage carries out an operation on zone i.
func (d *device) manage(op uintptr, i int) error {
	b := make([]byte, 16)
	binary.LittleEndian.PutUint64(b, d.zones[i].start)
	binary.LittleEndian.PutUint64(b[8:], d.zones[i].length)
	return d.ioctl(op, b)
}

// fill makes data that says where on the disk it stands.
func fill(b []byte, sector uint64) {
	for at := 0; at < len(b); at += 8 {
		binary.LittleEndian.PutUint64(b[at:], sector*sectorBytes+uint64(at)+1)
	}
}

// write writes n sectors at sector, one write.
func (d *device) write(sector, n uint64) error {
	b := d.buf[:n*sectorBytes]
	fill(b, sector)
	_, err := unix.Pwrite(int(d.f.Fd()), b, int64(sector*sectorBytes))
	return err
}

// read reads a block at sector into buf.
func (d *device) read(sector uint64) ([]byte, error) {
	b := d.buf[:d.block*sectorBytes]
	_, err := unix.Pread(int(d.f.Fd()), b, int64(sector*sectorBytes))
	return b, err
}
