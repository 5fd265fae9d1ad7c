package backend

// A writeGate keeps writes out of a zone while old data may be at its write pointer: what a
// reset zone held, until the reset is durable and the data erased, or the residue of a
// failed write that could not be erased. It belongs to the zone: every method needs the
// zone's lock.
type writeGate struct {
	closed bool
	// stuck: the last try to erase failed, and the next write, or the next request that
	// needs it, starts another one. owed: that was so, and no try has succeeded since.
	stuck, owed bool
	residue     uint64 // up to here, in sectors of the zone, failed writes may have left data; 0 for none
}

// An erasure is what the committer has to erase before a gate can open.
type erasure uint8

const (
	eraseNothing erasure = iota
	eraseReset           // what the zone held before it was reset
	eraseResidue         // what failed writes left above the write pointer
)

// closeForResetLocked closes the gate until the old data of a reset zone is erased, residue
// with it. It reports whether the committer has to be asked for that: where it is erasing
// for an earlier reset already, that takes this one along.
func (g *writeGate) closeForResetLocked() (ask bool) {
	if g.closed && !g.stuck && g.residue == 0 {
		return false
	}
	g.closed, g.stuck, g.residue = true, false, 0
	return true
}

// soilLocked notes that a failed write may have left data in front of end.
func (g *writeGate) soilLocked(end uint64) { g.residue = max(g.residue, end) }

// settleLocked closes the gate if there is residue above the write pointer, done, of a zone
// without writes in flight. If others were written behind all of it, it is of no more
// concern, and a gate that was closed for it opens.
func (g *writeGate) settleLocked(done uint64) {
	switch {
	case g.residue > done:
		g.closed, g.stuck, g.owed = true, true, true
	case g.residue != 0: // a gate that is closed is so for the residue: a reset erases residue too
		*g = writeGate{}
	}
}

// retryLocked is what to erase now, if the last try failed. The caller asks the committer
// for it.
func (g *writeGate) retryLocked() erasure {
	switch {
	case !g.stuck:
		return eraseNothing
	case g.residue != 0:
		g.stuck = false
		return eraseResidue
	}
	g.stuck = false
	return eraseReset
}

// openLocked opens the gate: what it was closed for is erased.
func (g *writeGate) openLocked() { g.closed, g.owed = false, false }

// cleanLocked notes that the residue is erased.
func (g *writeGate) cleanLocked() { g.residue = 0 }

// failLocked notes that the old data could not be erased.
func (g *writeGate) failLocked() { g.stuck, g.owed = true, true }
