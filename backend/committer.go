package backend

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
)

// The committer is one goroutine per image that makes things durable: flushes,
// writes that must be stable, and resets. It is the only one that writes the
// committed zone table. Syncs are slow and the committer answers all that wait
// for one with one, so the hand-over to it costs nothing that can be measured.
//
// The order of its steps is the promise of docs/image-format.md:
//
//	flush: the zones' writes in flight end; data is synced; then the table says so
//	reset: the table says so; then the old data goes; then the zone takes writes
type committer struct {
	d *zoned

	// dirty has a bit for each zone whose live entry may differ from the
	// committed one.
	dirty []atomic.Uint64
	// landed is poked when a write ends in a zone that the committer watches.
	landed chan struct{}
	ended  chan struct{} // closed when the goroutine is gone

	mu      sync.Mutex // guards what follows
	work    sync.Cond
	flushes reqList  // wait for a commit
	resets  []uint32 // zones whose old data has to go
	closing bool

	// lost is set once a sync has failed: the kernel then may have dropped data
	// that guests wrote, and tells so only once. No flush succeeds after that.
	lost error

	// The goroutine's own: the committed table as it is to be, and the blocks
	// of it in which that differs from what stands in the file.
	words   []word
	touched []int
	block   []byte
}

func newCommitter(d *zoned) *committer {
	c := &committer{
		d:      d,
		dirty:  make([]atomic.Uint64, (len(d.zones)+63)/64),
		landed: make(chan struct{}, 1),
		ended:  make(chan struct{}),
		words:  slices.Clone(d.img.commits),
		block:  make([]byte, blockBytes),
	}
	c.work.L = &c.mu
	go c.run()
	return c
}

// mark notes that zone i has to be committed. It is called for every write, so
// it looks before it stores.
func (c *committer) mark(i int) {
	bit := uint64(1) << (i % 64)
	if w := &c.dirty[i/64]; w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// flush ends r once all that was done before is durable.
func (c *committer) flush(r *Request) {
	r.step = stepEnd
	c.mu.Lock()
	c.flushes.push(r)
	c.work.Signal()
	c.mu.Unlock()
}

// reset makes the reset of zone i durable and its old data go away, and then
// opens its gate.
func (c *committer) reset(i int) {
	c.mu.Lock()
	c.resets = append(c.resets, uint32(i))
	c.work.Signal()
	c.mu.Unlock()
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
	debug.SetPanicOnFault(true) // storeLive
	var resets []uint32
	for {
		c.mu.Lock()
		for c.flushes.head == nil && len(c.resets) == 0 && !c.closing {
			c.work.Wait()
		}
		flushes := c.flushes
		c.flushes = reqList{}
		resets, c.resets = c.resets, resets[:0]
		closing := c.closing
		c.mu.Unlock()

		if flushes.head != nil {
			err := c.commitAll()
			for r := flushes.pop(); r != nil; r = flushes.pop() {
				r.Err = nil
				if err != nil {
					r.Err = c.d.errorOf(r, fmt.Errorf("%w: %w", ErrIO, err))
				}
				r.lane.post(r)
			}
		}
		if len(resets) > 0 {
			c.commitResets(resets)
		}
		if closing && flushes.head == nil && len(resets) == 0 {
			return
		}
	}
}

// commitAll makes everything durable that was done before it was called.
func (c *committer) commitAll() error {
	if c.lost != nil {
		return fmt.Errorf("an earlier sync failed and may have lost data: %w; restart zvhost to go on with what is on the disk", c.lost)
	}
	for i := range c.dirty {
		for bits, n := c.dirty[i].Swap(0), i*64; bits != 0; bits, n = bits>>1, n+1 {
			if bits&1 != 0 {
				c.set(n, c.d.settle(n))
			}
		}
	}
	if err := c.d.img.store.sync(); err != nil {
		c.lost = err
		// Nothing of this may reach the table, by a later reset either.
		for _, n := range c.touched {
			copy(c.entries(n), c.d.img.entries(n))
		}
		c.touched = c.touched[:0]
		return fmt.Errorf("sync: %w", err)
	}
	return c.commitTouched()
}

// set makes w what is to be committed for zone i.
func (c *committer) set(i int, w word) {
	if c.words[i] == w {
		return
	}
	c.words[i] = w
	if n := i / blockZones; !slices.Contains(c.touched, n) {
		c.touched = append(c.touched, n)
	}
}

// entries are the entries of block n as they are to be.
func (c *committer) entries(n int) []word {
	return c.words[n*blockZones : min((n+1)*blockZones, len(c.words))]
}

// commitTouched writes the touched blocks. Those that an error leaves are
// written by the next commit: what they say is true by now.
func (c *committer) commitTouched() error {
	for len(c.touched) > 0 {
		n := c.touched[len(c.touched)-1]
		if err := c.d.img.commitBlock(c.block, n, c.entries(n)); err != nil {
			return fmt.Errorf("commit the zone table: %w", err)
		}
		c.touched = c.touched[:len(c.touched)-1]
	}
	return nil
}

// commitResets commits that the zones are empty, gives their space back and
// lets their waiting writes go. Their neighbours in the table keep what is
// committed: their data has not been synced.
func (c *committer) commitResets(zones []uint32) {
	img := c.d.img
	slices.Sort(zones)
	for _, i := range zones {
		c.set(int(i), pack(int(i), Empty, 0))
	}
	err := c.commitTouched()
	for len(zones) > 0 {
		// One hole for zones that stand side by side: reset all is one call.
		n := 1
		for n < len(zones) && zones[n] == zones[0]+uint32(n) {
			n++
		}
		first, last := int(zones[0]), int(zones[n-1])
		if err == nil {
			from := img.offset(uint64(first) * img.ZoneSectors)
			to := img.offset(uint64(last)*img.ZoneSectors + img.length(last))
			err = img.store.wipe(from, to-from)
		}
		for i := first; i <= last; i++ {
			c.d.openGate(i, err)
		}
		zones = zones[n:]
	}
}
