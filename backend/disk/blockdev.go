package disk

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// QueueLimits reads attributes of a block device's queue. The first error
// sticks.
type QueueLimits struct {
	Dirs []string
	Err  error
}

// LimitsOf is about the device that f is; a partition has its queue one level up.
func LimitsOf(f *os.File) *QueueLimits {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &QueueLimits{Err: err}
	}
	dev := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	return &QueueLimits{Dirs: []string{dev + "/queue/", dev + "/../queue/"}}
}

// Get returns the number in attribute name, or missing where this kernel has no
// such attribute.
func (q *QueueLimits) Get(name string, missing uint64) uint64 {
	for _, dir := range q.Dirs {
		text, err := os.ReadFile(dir + name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		n := missing
		if err == nil {
			n, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		}
		if err != nil && q.Err == nil {
			q.Err = fmt.Errorf("read %s of its queue: %w", name, err)
		}
		return n
	}
	return missing
}

// DeviceSectors is the size of a block device (BLKGETSIZE64).
func DeviceSectors(fd int) (uint64, error) {
	var bytes uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&bytes)))
	if errno != 0 {
		return 0, fmt.Errorf("ask for its size: %w", errno)
	}
	return bytes >> SectorShift, nil
}

// BlockSizes are the logical and physical block sizes in bytes: a device's own,
// or for a file those that any file system takes through the page cache.
func BlockSizes(f *os.File) (logical, physical uint32, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if st.Mode()&os.ModeDevice == 0 {
		return 512, 4096, nil
	}
	l, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for its block size: %w", err)
	}
	p, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKPBSZGET)
	if err != nil || p < l || p > math.MaxInt32 {
		p = l
	}
	return uint32(l), uint32(p), nil
}

// WholeBlocks is how many sectors there are in so many bytes, counting only whole
// logical blocks.
func WholeBlocks(size int64, block uint32) uint64 {
	return uint64(size) / uint64(block) * uint64(block) >> SectorShift
}

// ZonedModel is what the kernel says of a block device: "none", "host-managed"
// or "host-aware" (Documentation/ABI/stable/sysfs-block, queue/zoned).
func ZonedModel(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	dev := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	// A partition has its queue one level up.
	for _, at := range []string{dev + "/queue/zoned", dev + "/../queue/zoned"} {
		text, err := os.ReadFile(at)
		if err == nil {
			return strings.TrimSpace(string(text)), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("find out whether %s is zoned: %w", f.Name(), err)
		}
	}
	// Without sysfs, or on a kernel that has no such file, ask the device.
	if zoneSectors, err := unix.IoctlGetUint32(int(f.Fd()), blkGetZoneSize); err == nil && zoneSectors != 0 {
		return "host-managed", nil
	}
	return "none", nil
}

// blkGetZoneSize is BLKGETZONESZ, _IOR(0x12, 132, __u32)
// (include/uapi/linux/blkzoned.h).
const blkGetZoneSize = 2<<30 | 4<<16 | 0x12<<8 | 132
