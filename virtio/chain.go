package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// MaxChain is how many descriptors a chain may have, and how many vectors it may need:
// IOV_MAX, so that any data fits one vectored system call. The specification lets a device
// set such a limit ("Message Framing").
//
// It also says that a driver makes no chain longer than the ring. That is enforced for
// direct chains: a longer one is a loop. A longer indirect table is accepted up to
// MaxChain, since Linux makes them if seg_max exceeds the ring's size (virtqueue_add_split
// in drivers/virtio/virtio_ring.c checks the ring's size only without a table).
const MaxChain = 1024

const descBytes = 16 // struct virtq_desc

// struct virtq_desc, flags
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// A Chain is one chain of descriptors, translated. It is reused: once its vectors have
// grown, filling it allocates nothing.
type Chain struct {
	Head uint16
	// Out is the part that the device reads, In the part that it writes, in order. They
	// point into guest memory; empty pieces are omitted.
	Out, In []unix.Iovec
	// longest is the length of the longest descriptor, in bytes, and seams how many vectors
	// exist only because a descriptor crosses from one region into another.
	longest uint32
	seams   int
	// OutBytes and InBytes are their lengths, together at most 2^32.
	OutBytes, InBytes uint64
	// Err is why the chain is malformed. Then Out is empty, and In is the one byte for the
	// status, or empty if that byte cannot be found or reached (answer.go).
	Err error
}

// The errors of a chain, returned wrapped with the descriptor's number.
var (
	errChainLong     = errors.New("chain has more descriptors than the ring or the device allows, or loops")
	errChainIndex    = errors.New("next descriptor lies outside the table")
	errChainOrder    = errors.New("device-readable descriptor behind a device-writable one")
	errChainTotal    = errors.New("chain is longer than 2^32 bytes")
	errChainPieces   = errors.New("chain crosses too many memory regions")
	errIndirect      = errors.New("indirect descriptor, but INDIRECT_DESC was not negotiated")
	errIndirectNext  = errors.New("indirect descriptor that also has a next one")
	errIndirectAgain = errors.New("indirect descriptor inside an indirect table")
	errIndirectMixed = errors.New("indirect descriptor in a chain with others")
	errIndirectLen   = errors.New("indirect table is empty, not a multiple of 16 bytes long, or too long")
)

// reset empties c for another chain and keeps its allocations.
func (c *Chain) reset(head uint16) {
	// Field by field: copying a Chain as a whole reads fields that have just been stored
	// one by one, and the processor waits for these stores.
	c.Head, c.Out, c.In = head, c.Out[:0], c.In[:0]
	c.longest, c.seams, c.OutBytes, c.InBytes, c.Err = 0, 0, 0, 0, nil
}

// fail makes c a malformed chain without a byte for its status yet.
func (c *Chain) fail(index uint16, err error) {
	c.reset(c.Head)
	c.Err = fmt.Errorf("descriptor %d: %w", index, err)
}

// add appends one buffer. An empty buffer is allowed, since the specification does not
// forbid it, and adds nothing; its address is not checked.
func (c *Chain) add(mem *guestmem.Memory, addr uint64, length uint32, write bool) (err error) {
	n := uint64(length)
	if c.OutBytes+c.InBytes+n > 1<<32 {
		return errChainTotal
	}
	was := len(c.Out) + len(c.In)
	if write {
		c.In, err = mem.AppendIovecs(c.In, addr, n)
		c.InBytes += n
	} else {
		c.Out, err = mem.AppendIovecs(c.Out, addr, n)
		c.OutBytes += n
	}
	c.longest = max(c.longest, length)
	pieces := len(c.Out) + len(c.In)
	c.seams += max(pieces-was-1, 0)
	if pieces > MaxChain {
		err = errChainPieces
	}
	return err
}

// walk fills c from the chain at c.Head of the descriptor table ("The Virtqueue Descriptor
// Table"). Each descriptor is read once, by two 8 byte loads, and the walk of a table ends
// after as many steps as it has entries.
func (q *Split) walk(c *Chain) {
	table, left := q.desc, int(q.size) // entries that may still come in this table
	index, writes, indirect := c.Head, false, false
	for total := 0; ; {
		if left--; left < 0 || total == MaxChain {
			c.fail(index, errChainLong)
			return
		}
		d := table[int(index)*descBytes:][:descBytes]
		addr, rest := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[8:])
		length, flags, next := uint32(rest), uint16(rest>>32), uint16(rest>>48)

		if flags&descIndirect != 0 {
			var err error
			switch {
			case indirect:
				err = errIndirectAgain
			case !q.indirect:
				err = errIndirect
			case flags&descNext != 0:
				err = errIndirectNext
			default: // the write flag has no meaning here and MUST be ignored
				table, err = q.tables.table(addr, length)
			}
			if err != nil {
				c.fail(index, err)
				return
			}
			indirect, index, left = true, 0, len(table)/descBytes
			continue
		}

		total++
		write := flags&descWrite != 0
		if !write && writes {
			c.fail(index, errChainOrder)
			return
		}
		writes = write
		if err := c.add(q.mem, addr, length, write); err != nil {
			c.fail(index, err)
			return
		}
		if flags&descNext == 0 {
			return
		}
		if int(next) >= len(table)/descBytes {
			c.fail(index, errChainIndex)
			return
		}
		index = next
	}
}

// A tableReader reads indirect tables.
type tableReader struct {
	mem    *guestmem.Memory
	copied []byte
}

// table returns the table at a guest address. If it crosses adjacent memory regions it is
// copied.
func (r *tableReader) table(addr uint64, length uint32) ([]byte, error) {
	if length == 0 || length%descBytes != 0 || length > MaxChain*descBytes {
		return nil, errIndirectLen
	}
	table, err := r.mem.Bytes(addr, uint64(length))
	if err == nil {
		return table, nil
	}
	if r.copied == nil {
		r.copied = make([]byte, MaxChain*descBytes)
	}
	table = r.copied[:length]
	return table, r.mem.ReadAt(table, addr)
}
