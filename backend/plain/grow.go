package plain

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
)

// Grow is Grow.
func (p *Disk) Grow() (uint64, error) {
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
