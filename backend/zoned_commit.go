package backend

import (
	"github.com/zvhost/zvhost/backend/disk"
)

// mark notes that zone i has to be committed. It is called for every write, so
// it looks before it stores.
func (c *committer) mark(i int) {
	bit := uint64(1) << (i % 64)
	if w := &c.dirty[i/64]; w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// flush ends r with err, or with what it fails with itself, once all that was done
// before is durable.
func (c *committer) flush(r *disk.Request, err error) {
	r.Err = err
	c.mu.Lock()
	c.flushes.Push(r)
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

// clear makes what failed writes have left in zone i go away, and then opens its gate.
func (c *committer) clear(i int) {
	c.mu.Lock()
	c.residue = append(c.residue, uint32(i))
	c.work.Signal()
	c.mu.Unlock()
}

// erase ends r once the old data of zones that were reset before is gone, durably.
func (c *committer) erase(r *disk.Request) {
	r.Err = nil
	c.mu.Lock()
	c.erases.Push(r)
	c.work.Signal()
	c.mu.Unlock()
}

// owesReset says whether what is to be committed for zone i, whose gate is shut, is
// older than its reset. A flush may have told of the reset already, and of what came
// behind it. That is no data, for no write has come; but it may be that the zone was
// finished, or put out of service, and the guest was promised that. Where it is so no
// more, another reset has come since.
func (c *committer) owesReset(i int) bool {
	w := c.words[i]
	return w.HasData() || w.Outlasts() && !c.d.Entry(i).Outlasts()
}
