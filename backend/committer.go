package backend

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/plant"
)

func newCommitter(d *zoned) *committer {
	c := &committer{
		d:      d,
		dirty:  make([]atomic.Uint64, (len(d.zones)+63)/64),
		landed: make(chan struct{}, 1),
		ended:  make(chan struct{}),
		words:  slices.Clone(d.img.Committed),
		looked: make([]uint64, (len(d.zones)+63)/64),
	}
	c.touched.in = make([]bool, d.img.Blocks())
	c.work.L = &c.mu
	go c.run()
	return c
}

// stop ends the goroutine once nothing is left to do.
func (c *committer) stop() {
	c.mu.Lock()
	c.closing = true
	c.work.Signal()
	c.mu.Unlock()
	<-c.ended
}

func (c *committer) run() {
	defer close(c.ended)
	debug.SetPanicOnFault(true) // LiveTable.Store of an image
	var resets, residue []uint32
	for {
		c.mu.Lock()
		for c.flushes.Head == nil && c.erases.Head == nil && len(c.resets) == 0 && len(c.residue) == 0 && !c.closing {
			c.work.Wait()
		}
		flushes, erases := c.flushes, c.erases
		c.flushes, c.erases = disk.List{}, disk.List{}
		resets, c.resets = c.resets, resets[:0]
		residue, c.residue = c.residue, residue[:0]
		closing := c.closing
		c.mu.Unlock()

		idle := flushes.Head == nil && erases.Head == nil && len(resets) == 0 && len(residue) == 0
		c.answer(flushes)
		if len(resets) > 0 {
			c.commitResets(resets)
		}
		for _, i := range residue {
			c.d.clearResidue(int(i))
		}
		c.answer(erases)
		if closing && idle {
			return
		}
	}
}

// answer ends requests that wait for a commit, all with one.
func (c *committer) answer(waiting disk.List) {
	if waiting.Head == nil {
		return
	}
	err := c.commitAll()
	for r := waiting.Pop(); r != nil; r = waiting.Pop() {
		failed := err
		if failed == nil && r.Op == disk.OpSecureErase {
			var again bool
			if again, failed = c.d.uncleared(zonedOf(r)); again {
				c.erase(r)
				continue
			}
		}
		if failed != nil {
			r.Err = c.d.rules.ErrorOf(r, fmt.Errorf("%w: %w", disk.ErrIO, failed))
		}
		r.Deliver(r.Err)
	}
}

// commitAll makes everything durable that was done before it was called.
func (c *committer) commitAll() error {
	if err := c.d.img.Size.Look(); err != nil {
		return err // before the table, or the file would be longer again
	}
	if c.lost != nil {
		return disk.LostData(c.lost)
	}
	for i := range c.dirty {
		c.looked[i] = c.dirty[i].Swap(0)
		for bits, n := c.looked[i], i*64; bits != 0; bits, n = bits>>1, n+1 {
			if bits&1 != 0 {
				c.set(n, c.d.settle(n))
			}
		}
	}
	if c.d.img.MaxActive != 0 {
		c.catchUp()
	}
	if plant.Unsynced {
		return c.commitTouched()
	}
	if err := c.d.img.Sync(); err != nil {
		return c.lose(err)
	}
	return c.commitTouched()
}

// catchUp brings the zones that stopped being active while commitAll looked at
// others up to date. Without it the commit could tell of a zone that gave its
// place up and of the one that took it. Every zone that is active in the
// commit is active now, with res.mu held, so there are not too many.
func (c *committer) catchUp() {
	c.d.res.mu.Lock()
	defer c.d.res.mu.Unlock()
	for i := range c.dirty {
		for bits, n := c.looked[i]|c.dirty[i].Load(), i*64; bits != 0; bits, n = bits>>1, n+1 {
			if bits&1 == 0 || !c.words[n].State().IsActive() {
				continue
			}
			// enter publishes such a change while it holds res.mu, and then no
			// write of the zone is in flight that the entry covers.
			if w := zone.Entry(c.d.zones[n].word.Load()); !w.State().IsActive() {
				c.set(n, w)
			}
		}
	}
}

// lose notes that a sync has failed.
func (c *committer) lose(err error) error {
	c.lost = err
	// Nothing of what was to be committed may reach the table, by a later reset
	// either.
	for _, n := range c.touched.list {
		copy(c.words[n*format.BlockZones:], c.d.img.CommittedBlock(n))
	}
	c.touched.clear()
	// The next daemon has to go on from the last commit, as after a power cut:
	// the live table speaks of data that may be gone. The disk may be too ill to
	// note even that; then nothing more can be done.
	_ = c.d.img.Distrust()
	return fmt.Errorf("sync: %w", err)
}

// set makes w what is to be committed for zone i.
func (c *committer) set(i int, w zone.Entry) {
	if c.words[i] != w {
		c.words[i] = w
		c.touched.add(i / format.BlockZones)
	}
}

// commitTouched writes the touched blocks. Those that an error leaves are
// written by the next commit: what they say is true by now.
func (c *committer) commitTouched() error {
	if err := c.d.img.Commit(c.words, c.touched.list); err != nil {
		if lost := c.d.img.Sync(); lost != nil && c.lost == nil {
			err = c.lose(lost)
		}
		return fmt.Errorf("commit the zone table: %w", err)
	}
	c.touched.clear()
	return nil
}

// commitResets commits that the zones are empty, gives their space back and
// lets their waiting writes go. Their neighbours in the table keep what is
// committed: their data has not been synced.
func (c *committer) commitResets(zones []uint32) {
	slices.Sort(zones)
	for _, i := range zones {
		if c.owesReset(int(i)) {
			c.set(int(i), zone.Pack(int(i), zone.Empty, 0))
		}
	}
	if err := c.commitTouched(); err != nil {
		for _, i := range zones {
			c.d.openGate(int(i), err)
		}
		return
	}
	for len(zones) > 0 {
		// One hole for zones that stand side by side: reset all is one call.
		n := 1
		for n < len(zones) && zones[n] == zones[0]+uint32(n) {
			n++
		}
		c.wipe(int(zones[0]), int(zones[n-1]))
		zones = zones[n:]
	}
}

// wipe makes the data of zones first to last go away and opens their gates. If
// it fails it tries zone by zone, so that only those stay shut that have to.
func (c *committer) wipe(first, last int) {
	img := c.d.img
	from := img.Offset(uint64(first) * img.ZoneSectors)
	to := img.Offset(uint64(last)*img.ZoneSectors + img.Length(last))
	err := c.d.wipe(from, to-from)
	for i := first; i <= last; i++ {
		if err != nil && first != last {
			c.wipe(i, i)
			continue
		}
		c.d.openGate(i, err)
	}
}
