package backend

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
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
	switch p, ok := d.(*plain); {
	case ok:
		return p.grow()
	case isAway(d):
		return 0, errAway
	case d.Info().Zoned != nil:
		return 0, errors.New("the disk is zoned: its size is fixed, for guests take their zones as they were at the start; create a larger image and copy what it holds")
	}
	return 0, errors.New("a disk without storage keeps its size")
}

// grow is Grow.
func (p *plain) grow() (uint64, error) {
	p.growing.Lock()
	defer p.growing.Unlock()
	if err := p.size.Failed(); err != nil {
		return 0, fmt.Errorf("disk %s: %w", p.f.Name(), err)
	}
	was := p.capacity.Load()
	size, err := disk.SizeOf(p.fd)
	if err != nil {
		return 0, fmt.Errorf("disk %s: %w", p.f.Name(), err)
	}
	sectors := disk.WholeBlocks(size, p.info.LogicalBlockSize)
	if sectors < was {
		_ = p.size.Look() // nothing is served from here on
		return 0, fmt.Errorf("disk %s: it has shrunk from %d sectors to %d while it is served: what was cut off is lost, so nothing of it is served any more; stop zvhost, and restore the file", p.f.Name(), was, sectors)
	}
	p.faults.Grow(sectors)
	p.capacity.Store(sectors)
	p.size.Grow(int64(sectors) << disk.SectorShift)
	return sectors, nil
}
