package backend

import (
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/drive"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/plain"
)

// Open opens the disk at path; what the file is decides what the disk is. Only
// one writer, or any number of readers, can have it open.
func Open(path string, o disk.Options) (disk.Disk, error) {
	kind, err := kindOf(path, &o)
	if err != nil {
		return nil, err
	}
	// Not "return openX(...)": a nil *zoned in a Disk would not be nil.
	switch kind {
	case disk.KindImage:
		d, err := openZoned(path, o)
		if err != nil {
			return nil, err
		}
		return d, nil
	case disk.KindZonedDevice:
		d, err := drive.Open(path, o)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	d, err := plain.Open(path, o)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// kindOf is what the file at path is to be opened as.
func kindOf(path string, o *disk.Options) (disk.Kind, error) {
	kind, err := image.Probe(path)
	if err == nil {
		kind, err = o.Format.Check(path, kind)
	}
	if err == nil && kind == disk.KindImage {
		err = image.CheckInFile(path)
	}
	if err != nil {
		return 0, err
	}
	if o.Window != nil && kind != disk.KindZonedDevice {
		return 0, disk.Unfitf("%s is no zoned block device, so it has no window of zones to serve: leave --zones out", path)
	}
	return kind, nil
}

// NewNull makes an ordinary disk of so many sectors that answers without storage:
// for measuring what everything else costs. An error says that the number of sectors is
// none that a disk can have.
func NewNull(sectors uint64) (disk.Disk, error) { return plain.NewNull(sectors) }
