package driver

import (
	"encoding/binary"
	"fmt"
)

// Add is format.Add.
func (r *split) Add(out, in []Buffer, token uint64) (head uint16, err error) {
	n := len(out) + len(in)
	if n == 0 {
		return 0, errEmpty
	}
	if n > r.freeCount {
		return 0, ErrFull
	}
	w := writer{r: r, left: n}
	for _, b := range out {
		w.put(b, 0)
	}
	for _, b := range in {
		w.put(b, flagWrite)
	}
	return r.offer(w.head, n, token), nil
}

// AddIndirect is format.AddIndirect.
func (r *split) AddIndirect(direct int, table Buffer, out, in []Buffer, token uint64) (head uint16, err error) {
	n := len(out) + len(in) - direct
	if direct < 0 || n <= 0 {
		return 0, errEmpty
	}
	if uint64(n)*descBytes > uint64(table.Len) {
		return 0, fmt.Errorf("indirect table of %d bytes has no room for %d descriptors", table.Len, n)
	}
	if direct+1 > r.freeCount {
		return 0, ErrFull
	}
	mem, err := r.mem.Bytes(table.GuestAddr, uint64(n)*descBytes)
	if err != nil {
		return 0, fmt.Errorf("indirect table: %w", err)
	}
	w := writer{r: r, left: direct + 1}
	i := 0
	put := func(b Buffer, flags uint16) {
		if i < direct {
			w.put(b, flags)
		} else {
			at := i - direct
			if at < n-1 {
				flags |= flagNext
			}
			putDesc(mem[at*descBytes:], b.GuestAddr, b.Len, flags, uint16(at+1))
		}
		i++
	}
	for _, b := range out {
		put(b, 0)
	}
	for _, b := range in {
		put(b, flagWrite)
	}
	w.put(Buffer{table.GuestAddr, uint32(n) * descBytes}, flagIndirect)
	return r.offer(w.head, direct+1, token), nil
}

// A writer takes descriptors off the free list and links them.
type writer struct {
	r    *split
	left int // descriptors still to come
	head uint16
	some bool
}

func (w *writer) put(b Buffer, flags uint16) {
	i := w.r.free
	w.r.free = w.r.next[i]
	if !w.some {
		w.head, w.some = i, true
	}
	if w.left--; w.left > 0 {
		flags |= flagNext
	}
	putDesc(w.r.desc[int(i)*descBytes:], b.GuestAddr, b.Len, flags, w.r.next[i])
}

// offer puts a head into the available ring.
func (r *split) offer(head uint16, descs int, token uint64) uint16 {
	r.freeCount -= descs
	r.state[head] = chain{token: token, descs: uint16(descs)}
	slot := int(r.availIdx & (r.layout.Size - 1))
	binary.LittleEndian.PutUint16(r.avail[2*slot:], head)
	r.availIdx++
	return head
}

// putDesc writes a struct virtq_desc.
func putDesc(d []byte, addr uint64, length uint32, flags, next uint16) {
	binary.LittleEndian.PutUint64(d, addr)
	binary.LittleEndian.PutUint64(d[8:], uint64(length)|uint64(flags)<<32|uint64(next)<<48)
}
