package backend

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
)

// A write that fails half way may leave data in the file. It is erased before the write is
// answered, since later writes of the zone may have landed behind it already. If it cannot be
// erased it is residue, and its address range is not reallocated: a write there that fails in
// its turn, or never ends, could let the residue show below the write pointer. So the write
// gate closes, as after a reset whose old data is still there, and each write that arrives
// starts another try. Residue below the write pointer stays: no address there is allocated
// before a reset, which erases it.

// scrub makes n bytes from off on of the file go away, for r, which has failed.
func (d *zoned) scrub(r *zonedRequest, off, n int64) {
	r.step = zonedScrubbed
	r.IO.Code, r.IO.Iov, r.IO.Off, r.IO.Len = engine.PunchHole, nil, off, n
	r.StartIO()
}

// clearResidue erases the residue above the write pointer of zone i, and opens its write
// gate. The committer calls it.
func (d *zoned) clearResidue(i int) {
	z := &d.zones[i]
	z.mu.Lock()
	from, to := z.done, z.gate.residue
	z.mu.Unlock()
	if to == 0 {
		return // it was reset since
	}
	start := uint64(i) << d.shift
	err := d.wipe(d.img.Offset(start+from), int64(to-from)<<disk.SectorShift)
	if err != nil {
		err = fmt.Errorf("%w: what a failed write left in the zone cannot be cleared: %w", disk.ErrIO, err)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.gate.residue == 0 {
		return // reset meanwhile, with a gate of its own
	}
	if err == nil {
		z.gate.cleanLocked()
	}
	d.openLocked(z, i, err)
}

// wipe makes n bytes from off on of the file go away, when no write is about to bring
// back what it has read of them. It is not for lanes, for whom the write may wait.
func (d *zoned) wipe(off, n int64) error {
	if e := d.edges; e != nil {
		s := e.Spans.Wait(off&^(e.Unit-1), disk.AlignUp(off+n, e.Unit))
		defer e.Spans.Release(s)
	}
	return d.img.Store.Wipe(off, n)
}
