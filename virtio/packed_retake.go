package virtio

import (
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// What a process does that goes on with a packed ring where another one died. The
// ring alone does not say what was in flight: used descriptors overwrite others
// than their own.

// KeepRaw has Raw return what Pop has read. It is for before the first Pop.
func (q *Packed) KeepRaw() { q.raw = make([][2]uint64, 0, min(q.size, 128)) }

// Raw are the descriptors of the chain that Pop took last, as they stood in the
// ring: address; length, and from bit 32 on flags. It is good until the next Pop.
func (q *Packed) Raw() [][2]uint64 { return q.raw }

// Passed says whether the descriptor at a place (see RingConfig.Base), which was
// available once and taken, is not any more: it was used, and the driver may even
// have filled it anew.
func (q *Packed) Passed(at uint16) bool {
	p := placeOf(at)
	return p.index < q.size && !p.available(q.flagsAt(p.index))
}

// Rebase makes base the place to go on from, see RingConfig.Base. It is for before
// the first Pop.
//
// Who died may have written used descriptors behind the first of a batch that it
// never published. They would be taken for good as soon as the driver comes to
// them, so all that is in flight is made to look as it did when it was taken; but
// for the first, which is left to say whether the driver has seen it.
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

// Retake fills c with the chain of buffer id, which Pop has given to a process
// that died, from what Raw was then, and puts it in flight. An error means that
// there can be no such chain, or that it cannot be answered (RingConfig.Answers);
// then others still can.
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
