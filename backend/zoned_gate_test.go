package backend

import "testing"

// What happens to a gate, event by event: whether it is closed then, and what the committer
// is asked to erase.
func TestWriteGate(t *testing.T) {
	const open, shut = false, true
	type step struct {
		what   string
		do     func(g *writeGate) erasure
		closed bool
		asked  erasure
	}
	reset := func(g *writeGate) erasure {
		if g.closeForResetLocked() {
			return eraseReset
		}
		return eraseNothing
	}
	none := func(do func(*writeGate)) func(*writeGate) erasure {
		return func(g *writeGate) erasure { do(g); return eraseNothing }
	}
	soil := none(func(g *writeGate) { g.soilLocked(8) })
	settle := func(done uint64) func(*writeGate) erasure {
		return none(func(g *writeGate) { g.settleLocked(done) })
	}
	clean := none(func(g *writeGate) { g.cleanLocked(); g.openLocked() })
	erased, failed, write := none((*writeGate).openLocked), none((*writeGate).failLocked), (*writeGate).retryLocked
	for name, steps := range map[string][]step{
		"a reset": {
			{"reset", reset, shut, eraseReset}, {"a write waits", write, shut, eraseNothing}, {"it is erased", erased, open, eraseNothing},
			{"a write", write, open, eraseNothing},
		},
		"a reset takes a later one along": {
			{"reset", reset, shut, eraseReset}, {"another one", reset, shut, eraseNothing}, {"both are erased", erased, open, eraseNothing},
		},
		"a reset is tried again, once a time": {
			{"reset", reset, shut, eraseReset}, {"it fails", failed, shut, eraseNothing},
			{"a write", write, shut, eraseReset}, {"another one", write, shut, eraseNothing},
			{"it fails", failed, shut, eraseNothing}, {"a reset", reset, shut, eraseReset}, {"it is erased", erased, open, eraseNothing},
		},
		"residue": {
			{"a write fails", soil, open, eraseNothing}, {"none is in flight", settle(4), shut, eraseNothing},
			{"a write", write, shut, eraseResidue}, {"another one", write, shut, eraseNothing},
			{"it fails", failed, shut, eraseNothing}, {"a write", write, shut, eraseResidue}, {"it is erased", clean, open, eraseNothing},
		},
		"residue is written over": {
			{"a write fails", soil, open, eraseNothing}, {"none is in flight", settle(4), shut, eraseNothing},
			{"others have landed behind it", settle(16), open, eraseNothing}, {"a write", write, open, eraseNothing},
		},
		"residue is below the write pointer": {
			{"a write fails", soil, open, eraseNothing}, {"none is in flight", settle(8), open, eraseNothing}, {"a write", write, open, eraseNothing},
		},
		"a reset erases residue": {
			{"a write fails", soil, open, eraseNothing}, {"none is in flight", settle(0), shut, eraseNothing},
			{"reset", reset, shut, eraseReset}, {"a write", write, shut, eraseNothing}, {"it is erased", erased, open, eraseNothing},
			{"none is in flight", settle(0), open, eraseNothing},
		},
		"the gate of a reset": {
			{"reset", reset, shut, eraseReset}, {"none is in flight", settle(16), shut, eraseNothing}, {"it is erased", erased, open, eraseNothing},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var g writeGate
			for n, s := range steps {
				if asked := s.do(&g); asked != s.asked || g.closed != s.closed {
					t.Fatalf("step %d, %s: asked for %d, closed %v; want %d, %v (%+v)", n, s.what, asked, g.closed, s.asked, s.closed, g)
				}
			}
			if g.closed || g.owed || g.residue != 0 {
				t.Errorf("in the end: %+v", g)
			}
		})
	}
}
