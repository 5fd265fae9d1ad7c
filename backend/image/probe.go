package image

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
)

// Probe returns what kind of disk the file at path is, by its contents. It writes nothing.
// It returns an error if path cannot be opened or read, or is no file or block device.
func Probe(path string) (disk.Kind, error) {
	// Only what can be a disk is opened: to open a watchdog, a tape or a named pipe does
	// something. The flag is for a named pipe that has come meanwhile.
	if st, err := os.Stat(path); err == nil && !canBeDisk(st.Mode()) {
		return 0, disk.NotADisk(path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, disk.CannotOpen("disk", path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("open the disk: %w", err)
	}
	switch mode := st.Mode(); {
	case !canBeDisk(mode):
		return 0, disk.NotADisk(path)
	case !mode.IsRegular():
		model, err := disk.ZonedModel(f)
		if err != nil {
			return 0, err
		}
		if model != "none" {
			return disk.KindZonedDevice, nil
		}
	}
	// An image whose first block was destroyed must not be served as an
	// ordinary disk: the guest would write over its zones. So any of its notes
	// will do.
	for _, mark := range []struct {
		off  int64
		text string
	}{{format.SuperOff, format.Magic}, {format.SuperCopyOff, format.Magic}, {format.StateOff, format.StateMagic}, {format.StateOff + format.BlockBytes, format.StateMagic}} {
		b := make([]byte, len(mark.text))
		if _, err := f.ReadAt(b, mark.off); err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read %s: %w", path, err)
		}
		if string(b) == mark.text {
			return disk.KindImage, nil
		}
	}
	return disk.KindPlain, nil
}

// canBeDisk says whether a file of this mode is a regular file or a block device.
func canBeDisk(mode os.FileMode) bool {
	return mode.IsRegular() || mode&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice
}

// CheckInFile returns an error, which wraps disk.ErrUnfit, if the image at path is on a
// block device.
func CheckInFile(path string) error {
	st, err := os.Stat(path)
	if err == nil && st.Mode()&os.ModeDevice != 0 {
		err = disk.Unfitf("%s is a block device that holds a zoned image, and images are served from files only: copy it into a file (cp --sparse=always %s disk.zvh) and serve that; an ordinary disk, whatever stands on it, is served with --format raw", path, path)
	}
	return err
}
