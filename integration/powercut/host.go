package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
)

// diskBytes is the size of the disk under a file system: the least that XFS
// takes. Little of it is written.
const (
	diskBytes = 320 << 20
	logBytes  = 1 << 30
)

// makeFS makes an empty file system, and returns the disk that it is on.
func makeFS(fs, path string) (disk, error) {
	if err := rig.Sparse(path, diskBytes); err != nil {
		return nil, err
	}
	defer os.Remove(path)
	args := map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=1", path},
		"xfs":  {"mkfs.xfs", "-q", "-f", path},
	}[fs]
	if args == nil {
		return nil, fmt.Errorf("there is no file system %q here: ext4 or xfs", fs)
	}
	if _, err := rig.Run(args[0], args[1:]...); err != nil {
		return nil, err
	}
	return readDisk(path)
}

// A logDevice is a log-writes device.
type logDevice struct {
	name    string
	device  string
	control *os.File
}

// logWrites makes a device that writes to disk and notes it in log.
func logWrites(u *rig.Undo, name, disk, log string) (*logDevice, error) {
	table := fmt.Sprintf("0 %d log-writes %s %s", diskBytes/rig.SectorBytes, disk, log)
	if _, err := rig.Run("dmsetup", "create", name, "--noudevsync", "--table", table); err != nil {
		return nil, err
	}
	u.Add(func() error { _, err := rig.Run("dmsetup", "remove", "--noudevsync", name); return err })
	// There is no udev to make a node of the name.
	node, err := rig.Run("dmsetup", "info", "--columns", "--noheadings", "-o", "blkdevname", name)
	if err != nil {
		return nil, err
	}
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	u.Add(control.Close)
	return &logDevice{name, "/dev/" + node, control}, nil
}

// mark puts a mark into the log, behind all that has ended by now.
func (l *logDevice) mark(text string) error {
	// struct dm_ioctl, then struct dm_target_msg (linux/dm-ioctl.h). A program
	// for it would take as long as many requests.
	const (
		header       = 312
		dmTargetMsg  = 3<<30 | header<<16 | 0xfd<<8 | 14
		versionMajor = 4
	)
	le := binary.LittleEndian
	var b [512]byte
	le.PutUint32(b[0:], versionMajor)
	le.PutUint32(b[12:], uint32(len(b)))
	le.PutUint32(b[16:], header)
	copy(b[48:48+127], l.name)
	copy(b[header+8:len(b)-1], "mark "+text)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, l.control.Fd(), dmTargetMsg, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return fmt.Errorf("mark %q in the log: %w", text, e)
	}
	return nil
}

// eagerWriteback makes the kernel write dirty pages early, so that some of what
// nobody has asked to sync is on the disk when the power goes.
func eagerWriteback() error {
	for name, value := range map[string]string{
		"dirty_writeback_centisecs": "10", "dirty_expire_centisecs": "10", "dirty_background_bytes": "65536",
	} {
		if err := os.WriteFile("/proc/sys/vm/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}
