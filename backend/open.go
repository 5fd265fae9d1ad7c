package backend

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what a file is served as.
type Kind int

// The kinds of files.
const (
	KindPlain       Kind = iota // an ordinary disk
	KindImage                   // a zoned image: a host-managed disk
	KindZonedDevice             // a zoned block device of the host
)

// Options are how a disk is opened.
type Options struct {
	ReadOnly bool
	// Direct has data moved past the host's page cache. Zoned block devices are
	// always used so.
	Direct bool
	// Format is what the file has to be; empty for whatever it is.
	Format Format
	// Window is the part of a zoned block device to serve; nil for all of it.
	Window *Window
	// BlockSize is the logical block size in bytes that an ordinary disk is shown with, 512
	// or 4096; 0 for a device's own, and 512 for a file. Of images and zoned drives it is
	// the one that they have to have.
	BlockSize uint32
	// Warn is told, in a line, what may be wrong with a disk that is opened all the same;
	// nil: nobody is.
	Warn func(text string)

	unit uint32            // tests: what I/O has to be whole blocks of, at least
	look bool              // without the lock, not to be used: see Look
	wrap func(store) store // tests: what is put over an image's file
}

// Format says what a file is to be taken for.
type Format string

// The formats of files.
const (
	FormatAny Format = "" // what Probe finds
	// FormatRaw is an ordinary disk, whatever stands in it: a guest can write into
	// its own disk what makes a file an image.
	FormatRaw   Format = "raw"
	FormatZoned Format = "zoned" // a zoned image or drive, and nothing else
)

// check says whether a file that was found to be kind may be opened as f, and as
// what kind.
func (f Format) check(path string, kind Kind) (Kind, error) {
	switch {
	case f == FormatRaw && kind == KindZonedDevice:
		return 0, unfitf("%s is a zoned drive, which is no ordinary disk: leave --format=raw out", path)
	case f == FormatRaw:
		return KindPlain, nil
	case f == FormatZoned && kind == KindPlain:
		return 0, unfitf("%s is neither a zoned image nor a zoned drive: see whether it is the right file, or make an image with 'zvhost create'", path)
	}
	return kind, nil
}

// Probe says what the file at path is. It reads, and never writes.
func Probe(path string) (Kind, error) {
	// Not to block on a fifo, and not to follow what cannot be a disk.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, cannotOpen("disk", path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("open the disk: %w", err)
	}
	switch mode := st.Mode(); {
	case mode.IsRegular():
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		model, err := zonedModel(f)
		if err != nil {
			return 0, err
		}
		if model != "none" {
			return KindZonedDevice, nil
		}
	default:
		return 0, notADisk(path)
	}
	// An image whose first block was destroyed must not be served as an
	// ordinary disk: the guest would write over its zones. So any of its marks
	// will do.
	for _, mark := range []struct {
		off  int64
		text string
	}{{superOff, imageMagic}, {superCopyOff, imageMagic}, {stateOff, stateMagic}, {stateOff + blockBytes, stateMagic}} {
		b := make([]byte, len(mark.text))
		if _, err := f.ReadAt(b, mark.off); err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read %s: %w", path, err)
		}
		if string(b) == mark.text {
			return KindImage, nil
		}
	}
	return KindPlain, nil
}

// zonedModel is what the kernel says of a block device: "none", "host-managed"
// or "host-aware" (Documentation/ABI/stable/sysfs-block, queue/zoned).
func zonedModel(f *os.File) (string, error) {
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

// Open opens the disk at path; what the file is decides what the disk is. Only
// one writer, or any number of readers, can have it open.
func Open(path string, o Options) (Disk, error) {
	kind, err := o.kind(path)
	if err != nil {
		return nil, err
	}
	// Not "return openX(...)": a nil *zoned in a Disk would not be nil.
	switch kind {
	case KindImage:
		d, err := openZoned(path, o)
		if err != nil {
			return nil, err
		}
		return d, nil
	case KindZonedDevice:
		d, err := openDrive(path, o)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	d, err := openPlain(path, o)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// inFile says why what stands at path, an image, cannot be used: it is on a block
// device.
func inFile(path string) error {
	st, err := os.Stat(path)
	if err == nil && st.Mode()&os.ModeDevice != 0 {
		err = unfitf("%s is a block device that holds a zoned image, and images are served from files only: copy it into a file (cp --sparse=always %s disk.zvh) and serve that; an ordinary disk, whatever stands on it, is served with --format raw", path, path)
	}
	return err
}

// kind is what the file at path is to be opened as.
func (o *Options) kind(path string) (Kind, error) {
	kind, err := Probe(path)
	if err == nil {
		kind, err = o.Format.check(path, kind)
	}
	if err == nil && kind == KindImage {
		err = inFile(path)
	}
	if err != nil {
		return 0, err
	}
	if o.Window != nil && kind != KindZonedDevice {
		return 0, unfitf("%s is no zoned block device, so it has no window of zones to serve: leave --zones out", path)
	}
	return kind, nil
}
