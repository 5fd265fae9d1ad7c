package backend

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
)

// This file is about what a write leaves behind that failed half way. It is made to go
// away before the write ends: later ones of the zone may stand behind it. Where that
// fails too it is debris, and the zone gives no address out again that has some under
// it: a write there that fails in its turn, or never ends, could let it show below the
// write pointer. So the zone's gate is shut, as after a reset whose old data is still
// there, and each write that comes has it tried again. What others have been written
// behind stays: that address is nobody's again before a reset, which clears it.

// scrub makes n bytes from off on of the file go away, for r, which has failed.
func (d *zoned) scrub(r *zonedRequest, off, n int64) {
	r.step = zonedScrubbed
	r.IO.Code, r.IO.Iov, r.IO.Off, r.IO.Len = engine.PunchHole, nil, off, n
	r.StartIO()
}

// shutLocked shuts the gate of zone z, whose lock is held and which has no writes in flight,
// where there is debris above its write pointer.
func (z *seqZone) shutLocked() {
	if z.debris <= z.done {
		if z.debris != 0 { // the gate, if it is shut, is so for that: a reset takes debris along
			z.gated, z.stuck, z.owed = false, false, false
		}
		z.debris = 0
		return
	}
	z.gated, z.stuck, z.owed = true, true, true
}

// clearDebris makes what stands above the write pointer of zone i go away, and opens its
// gate. It is the committer's.
func (d *zoned) clearDebris(i int) {
	z := &d.zones[i]
	z.mu.Lock()
	from, to := z.done, z.debris
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
	if z.debris == 0 {
		return // reset meanwhile, with a gate of its own
	}
	if err == nil {
		z.debris = 0
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
