package plain

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// Null is an ordinary disk without storage: it answers at once, as QEMU's null-co
// driver does. Reads leave the guest's memory as it is, writes are forgotten.
type Null struct {
	info   disk.Info
	faults disk.Faults
}

// NewNull makes an ordinary disk of so many sectors that answers without storage:
// for measuring what everything else costs. Requests outside it fail as with any
// disk. An error says that the number of sectors is none that a disk can have.
func NewNull(sectors uint64) (disk.Disk, error) {
	if sectors == 0 || sectors > 1<<(63-disk.SectorShift) {
		return nil, fmt.Errorf("a disk without storage of %d sectors: must be 1 to 2^%d", sectors, 63-disk.SectorShift)
	}
	n := &Null{info: disk.Info{
		CapacitySectors:       sectors,
		LogicalBlockSize:      disk.SectorSize,
		PhysicalBlockSize:     4096,
		MaxDiscardSectors:     MaxRangeSectors,
		DiscardGranularity:    4096,
		MaxWriteZeroesSectors: MaxRangeSectors,
	}}
	n.faults.Init(n.info)
	return n, nil
}

// Info implements Disk.
func (n *Null) Info() disk.Info { return n.info }

// ReportZone implements Disk. There are no zones, so none may be asked for.
func (n *Null) ReportZone(int) zone.Descriptor { panic("backend: zone report of a disk without zones") }

// Faults implements Disk.
func (n *Null) Faults() *disk.Faults { return &n.faults }

// Close implements Disk.
func (n *Null) Close() error { return nil }

// Submit implements Disk: the request is done when it returns.
func (n *Null) Submit(r *disk.Request) {
	switch r.Op {
	case disk.OpRead, disk.OpWrite:
		sectors := r.Bytes >> disk.SectorShift
		if r.Bytes&(disk.SectorSize-1) != 0 || !n.inside(r.Sector, sectors) {
			n.fail(r, disk.ErrRange)
			return
		}
		if n.faults.Strike(r, r.Sector, sectors) {
			n.fail(r, r.Fault.Err)
			return
		}
	case disk.OpFlush:
		if n.faults.Strike(r, 0, 0) {
			n.fail(r, r.Fault.Err)
			return
		}
	case disk.OpDiscard, disk.OpWriteZeroes:
		for _, seg := range r.Ranges {
			if seg.Sectors > MaxRangeSectors || !n.inside(seg.Sector, uint64(seg.Sectors)) {
				n.fail(r, disk.ErrRange)
				return
			}
		}
	default:
		n.fail(r, disk.ErrUnsupported)
		return
	}
	r.Finish(nil)
}

func (n *Null) inside(sector, sectors uint64) bool {
	return sector <= n.info.CapacitySectors && sectors <= n.info.CapacitySectors-sector
}

// Continue implements Disk. There is no I/O, but a fault may have held an answer
// back.
func (n *Null) Continue(r *disk.Request) { r.Finish(r.Err) }

func (n *Null) fail(r *disk.Request, err error) {
	r.Finish(&disk.RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: -1, Err: err})
}
