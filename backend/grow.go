package backend

import (
	"errors"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/plain"
)

// Grow has an ordinary disk take in what its file or device has become larger by
// since it was opened, and returns its size in sectors from now on; a disk that is
// as large as before is no error. Guests may use the new sectors at once, and have
// to be told of them. Any goroutine may call it at any time.
//
// A zoned disk refuses. The specification lets no zone appear or grow on a disk in
// use, and Linux 6.3 to 6.7 looks at all zones anew, with requests in flight, when
// it is told of a change (virtblk_update_capacity, drivers/block/virtio_blk.c).
func Grow(d disk.Disk) (sectors uint64, err error) {
	switch p, ok := d.(*plain.Disk); {
	case ok:
		return p.Grow()
	case isDetached(d):
		return 0, errDetached
	case d.Info().Zoned != nil:
		return 0, errors.New("the disk is zoned: its size is fixed, for guests take their zones as they were at the start; create a larger image and copy what it holds")
	}
	return 0, errors.New("a disk without storage keeps its size")
}
