package guestmem

import "golang.org/x/sys/unix"

// drainStep is how much memory is removed from the mapping at once, in bytes. Unmapping
// many GiB at once delays every other mapping of the process meanwhile, such as that of the
// next front-end's memory.
const drainStep = 64 << 20

// Drain makes Unmap fast for a region that is not in use any more: it removes the pages
// from the mapping, a part at a time. The memory's content does not change.
func (r *Region) Drain() {
	for b := r.mapping; len(b) > 0; {
		n := min(len(b), drainStep)
		_ = unix.Madvise(b[:n], unix.MADV_DONTNEED) // else Unmap does it
		b = b[n:]
	}
}
