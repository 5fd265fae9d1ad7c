package backend

import (
	"fmt"
	"os"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/drive"
	"github.com/zvhost/zvhost/backend/image"
)

// ReadReport reads the zones of the image at path, without disturbing a daemon
// that serves it or is about to: it writes nothing, and keeps no lock. Each zone
// is as it was at some instant during the call.
func ReadReport(path string) (disk.Report, error) {
	kind, err := image.Probe(path)
	if err != nil {
		return disk.Report{}, err
	}
	switch kind {
	case disk.KindPlain:
		return disk.Report{}, disk.Unfitf("%s is an ordinary disk: it has no zones to report", path)
	case disk.KindZonedDevice:
		return drive.ReadReport(path, nil)
	}
	f, err := os.Open(path)
	if err != nil {
		return disk.Report{}, disk.CannotOpen("image", path, err)
	}
	defer f.Close()
	rep, err := image.ReadReport(f)
	if err != nil {
		return disk.Report{}, fmt.Errorf("image %s: %w", path, err)
	}
	return rep, nil
}

// ReadDriveReport reads the zones of the zoned block device at path, or of a window of it,
// as the device has them; they are numbered from the window's first one. It disturbs no
// daemon that serves them. It returns an error if path is no zoned device or cannot be read.
func ReadDriveReport(path string, w *disk.Window) (disk.Report, error) {
	return drive.ReadReport(path, w)
}
