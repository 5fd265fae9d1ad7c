package backend

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/zone"
)

// null is an ordinary disk without storage: it answers at once, as QEMU's null-co
// driver does. Reads leave the guest's memory as it is, writes are forgotten.
type null struct {
	info   Info
	faults Faults
}

// NewNull makes an ordinary disk of so many sectors that answers without storage:
// for measuring what everything else costs. Requests outside it fail as with any
// disk. An error says that the number of sectors is none that a disk can have.
func NewNull(sectors uint64) (Disk, error) {
	if sectors == 0 || sectors > 1<<(63-SectorShift) {
		return nil, fmt.Errorf("a disk without storage of %d sectors: must be 1 to 2^%d", sectors, 63-SectorShift)
	}
	n := &null{info: Info{
		CapacitySectors:       sectors,
		LogicalBlockSize:      SectorSize,
		PhysicalBlockSize:     4096,
		MaxDiscardSectors:     maxRangeSectors,
		DiscardGranularity:    4096,
		MaxWriteZeroesSectors: maxRangeSectors,
	}}
	n.faults.init(n.info)
	return n, nil
}

// Info implements Disk.
func (n *null) Info() Info { return n.info }

// ReportZone implements Disk. There are no zones, so none may be asked for.
func (n *null) ReportZone(int) zone.Descriptor { panic("backend: zone report of a disk without zones") }

// Faults implements Disk.
func (n *null) Faults() *Faults { return &n.faults }

// Close implements Disk.
func (n *null) Close() error { return nil }

// submit implements Disk: the request is done when it returns.
func (n *null) submit(r *Request) {
	switch r.Op {
	case OpRead, OpWrite:
		sectors := r.Bytes >> SectorShift
		if r.Bytes&(SectorSize-1) != 0 || !n.inside(r.Sector, sectors) {
			n.fail(r, ErrRange)
			return
		}
		if n.faults.strike(r, r.Sector, sectors) {
			n.fail(r, r.fate.err)
			return
		}
	case OpFlush:
		if n.faults.strike(r, 0, 0) {
			n.fail(r, r.fate.err)
			return
		}
	case OpDiscard, OpWriteZeroes:
		for _, seg := range r.Ranges {
			if seg.Sectors > maxRangeSectors || !n.inside(seg.Sector, uint64(seg.Sectors)) {
				n.fail(r, ErrRange)
				return
			}
		}
	default:
		n.fail(r, ErrUnsupported)
		return
	}
	r.finish(nil)
}

func (n *null) inside(sector, sectors uint64) bool {
	return sector <= n.info.CapacitySectors && sectors <= n.info.CapacitySectors-sector
}

// ioDone implements Disk. There is no I/O, but a fault may have held an answer
// back.
func (n *null) ioDone(r *Request) { r.finish(r.Err) }

func (n *null) fail(r *Request, err error) {
	r.finish(&RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: -1, Err: err})
}
