package virtio

import (
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// How the next process continues with a packed ring. The ring alone does not show what was
// in flight, since used descriptors overwrite others than their own.

// KeepRaw makes Raw return the descriptors that Pop has read. Call it before the first Pop.
func (q *Packed) KeepRaw() { q.raw = make([][2]uint64, 0, min(q.size, 128)) }

// Raw are the descriptors of the chain that Pop returned last, as they were in the ring:
// address; length, and from bit 32 on flags. It is valid until the next Pop.
func (q *Packed) Raw() [][2]uint64 { return q.raw }

// Passed reports whether the descriptor at a place (see RingConfig.Base), which was
// available and popped, is not available any more: it was used, and the driver may have
// reused it.
func (q *Packed) Passed(at uint16) bool {
	p := placeOf(at)
	return p.index < q.size && !p.available(q.flagsAt(p.index))
}

// Rebase makes base the place to continue at, see RingConfig.Base. Call it before the first
// Pop.
//
// The previous process may have written used descriptors behind the first of a batch that
// it never published. The driver would accept them when it reaches them. So Rebase makes
// all that is in flight look as it did when it was popped, except the first, whose flags
// show whether the driver has seen the batch.
func (q *Packed) Rebase(base uint32) error {
	next, used := placeOf(uint16(base)), placeOf(uint16(base>>16))
	taken, err := ahead(next, used, q.size)
	if err != nil {
		return q.fail(err)
	}
	q.next, q.used, q.shown, q.taken = next, used, used, taken
	for p, n := used, uint16(1); n < taken; n++ {
		p = p.plus(1, q.size)
		flags := uint32(descUsed) << 16
		if p.wrap {
			flags = descAvail << 16
		}
		guestmem.Uint32At(q.desc, int(p.index)*descBytes+packedWord).Store(flags)
		if q.log != nil {
			q.logDesc(p)
		}
	}
	return nil
}

// Retake fills c with the chain of buffer id, which the previous process had popped, from
// what Raw was then, and puts it in flight. An error means that such a chain cannot exist,
// or that it cannot be answered (RingConfig.Answers); then others still can.
func (q *Packed) Retake(id uint16, raw [][2]uint64, c *Chain) error {
	if id >= q.size || q.chains[id] != 0 || len(raw) == 0 || len(raw) > int(q.taken) {
		return q.fail(fmt.Errorf("buffer %d of %d, with %d descriptors, was in flight when another process died, or twice", id, q.size, len(raw)))
	}
	c.reset(id)
	writes := false
	for i, d := range raw {
		if err := q.element(c, uint16(i+1), d[0], uint32(d[1]), uint16(d[1]>>32), &writes); err != nil {
			c.fail(uint16(i), err)
			q.salvage(c, len(raw), func(i int) [2]uint64 { return raw[i] })
			break
		}
	}
	if q.answers && c.InBytes == 0 {
		return q.fail(unanswerable(c))
	}
	q.chains[id] = uint16(len(raw))
	if q.log != nil {
		q.log.hold(c)
	}
	return nil
}

func (q *Packed) fail(err error) error {
	q.broken = err
	return err
}
