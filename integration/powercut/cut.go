package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
)

// A cut is where the power goes and what becomes of what was not flushed.
type cut struct {
	at   int     // the last entry that has happened
	keep float64 // how likely an unflushed write is there
	tear float64 // how likely one that is there is torn
	seed uint64  // of the choices
	atom int     // how many sectors, on their borders, the disk writes whole or not at all; 0: 1

	unflushed, kept, torn int // what became of them
}

func (c *cut) String() string {
	return fmt.Sprintf("cut after entry %d, %d of %d unflushed writes kept and %d of these torn", c.at, c.kept, c.unflushed, c.torn)
}

// pickCuts chooses n places behind the entry first, in their order: some right
// behind a promise, where it is easiest broken, most between two flushes, where
// much is undecided.
func pickCuts(entries []entry, first, n int, rng *rand.Rand) []cut {
	var promises, plain []int
	for i := first; i < len(entries); i++ {
		switch {
		case entries[i].mark != "":
			promises = append(promises, i)
		case entries[i].plain():
			plain = append(plain, i)
		}
	}
	cuts := make([]cut, n)
	for i := range cuts {
		c := &cuts[i]
		c.at = promises[rng.IntN(len(promises))]
		if len(plain) > 0 && i%3 > 0 {
			c.at = plain[rng.IntN(len(plain))]
		}
		// The writes between two flushes stand behind what was written through
		// and behind the marks, and in the order in which they ended; all of
		// them may have been under way when the power went.
		for entries[c.at].plain() && c.at+1 < len(entries) && entries[c.at+1].flags&entryFlush == 0 {
			c.at++
		}
		c.keep = []float64{0, 0.1, 0.5, 0.9, 1}[rng.IntN(5)]
		c.tear = []float64{0, 0.2, 0.8}[rng.IntN(3)]
		c.seed = rng.Uint64()
	}
	slices.SortFunc(cuts, func(a, b cut) int { return a.at - b.at })
	return cuts
}

// A player makes disks of a log, one cut after the other.
type player struct {
	log     io.ReaderAt
	entries []entry
	base    disk // as after entry next-1, which is a flush
	next    int
}

// advance makes all entries durable that the last flush up to at covers.
func (p *player) advance(at int) error {
	flush := at
	for flush >= p.next && p.entries[flush].flags&entryFlush == 0 {
		flush--
	}
	for ; p.next <= flush; p.next++ {
		if err := p.base.apply(p.log, &p.entries[p.next], all); err != nil {
			return err
		}
	}
	return nil
}

// play returns the disk that c leaves. Cuts have to come in order. Pages are
// shared with the player's own, so the disk is not to be written to.
func (p *player) play(c *cut) (disk, error) {
	if err := p.advance(c.at); err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(c.seed, 0))
	over := disk{}
	for i := p.next; i <= c.at; i++ {
		e := &p.entries[i]
		if e.flags&(entryDiscard|entryMark) != 0 || e.sectors == 0 {
			continue
		}
		keep := all
		if e.plain() {
			c.unflushed++
			if rng.Float64() >= c.keep {
				continue
			}
			c.kept++
			if rng.Float64() < c.tear {
				c.torn++
				keep = torn(rng, int(e.sector%8), c.atom)
			}
		}
		for page := e.sector / 8; page <= (e.sector+e.sectors-1)/8; page++ {
			if old := p.base[int64(page)]; over[int64(page)] == nil && old != nil {
				dup := *old
				over[int64(page)] = &dup
			}
		}
		if err := over.apply(p.log, e, keep); err != nil {
			return nil, err
		}
	}
	return p.base.copyWith(over), nil
}

// torn keeps each sector of a write, or each eight of them, with even chances;
// but parts of an atom never. The write begins so many sectors behind a page.
func torn(rng *rand.Rand, begins, atom int) func(n int) bool {
	unit := max(1+7*rng.IntN(2), atom)
	var kept bool
	return func(n int) bool {
		if n == 0 || (begins+n)%unit == 0 {
			kept = rng.IntN(2) == 0
		}
		return kept
	}
}
