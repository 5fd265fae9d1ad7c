package guestmem

import "golang.org/x/sys/unix"

// drainStep is how much memory is taken out of the mapping at once, in bytes. To unmap
// many GiB in one go keeps every other mapping of the process waiting meanwhile: the next
// front-end's memory.
const drainStep = 64 << 20

// Drain makes Unmap quick, for a region of which nothing is in use any more: it takes the
// pages out of the mapping, a part at a time. The memory's content stays as it is.
func (r *Region) Drain() {
	for b := r.mapping; len(b) > 0; {
		n := min(len(b), drainStep)
		_ = unix.Madvise(b[:n], unix.MADV_DONTNEED) // else Unmap does it
		b = b[n:]
	}
}
