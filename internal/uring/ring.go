package uring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Ring is one io_uring. No more entries may be in flight than Entries says: so
// the completion queue, which has room for as many, never overflows.
type Ring struct {
	fd      int
	entries uint32
	calls   uint64

	rings []byte // both rings, mapped
	sqes  []byte

	sqHead  *uint32
	sqTail  *uint32
	sqFlags *uint32
	sqMask  uint32
	tail    uint32 // ours, published by Enter
	shown   uint32 // as last published

	cqHead *uint32
	cqTail *uint32
	cqMask uint32
	cqes   unsafe.Pointer
	head   uint32 // ours, published by Next
	seen   uint32 // completion tail as last loaded
}

// New makes a ring for as many entries in flight, a power of two. It belongs to
// the thread that calls it. The error says why the kernel does not give one:
// ENOSYS, EPERM (forbidden by kernel.io_uring_disabled or a filter of system
// calls), EINVAL (older than Linux 6.1), or a lack of memory or descriptors.
func New(entries int) (*Ring, error) {
	p := params{
		flags: setupCQSize | setupSubmitAll | setupTaskrunFlag | setupSingleIssuer | setupDeferTaskrun,
		// The completion queue is at least twice as long as the submission queue;
		// half of it would do.
		cqEntries: 2 * uint32(entries),
	}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r := &Ring{fd: int(fd), entries: p.sqEntries}
	if err := r.open(&p); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// open maps the queues of a ring that was set up.
func (r *Ring) open(p *params) (err error) {
	unix.CloseOnExec(r.fd)
	if p.features&featSingleMmap == 0 || p.features&featNoDrop == 0 {
		return fmt.Errorf("io_uring: the kernel's features %#x lack SINGLE_MMAP or NODROP", p.features)
	}
	size := max(p.sq.array+4*p.sqEntries, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(CQE{})))
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.rings, err = unix.Mmap(r.fd, offSQRing, int(size), prot, flags); err != nil {
		return fmt.Errorf("mapping an io_uring: %w", err)
	}
	if r.sqes, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(SQE{})), prot, flags); err != nil {
		return fmt.Errorf("mapping an io_uring's entries: %w", err)
	}
	// A mapping has the ring open, and that its files: see internal/foreign.
	_ = unix.Madvise(r.rings, unix.MADV_DONTFORK)
	_ = unix.Madvise(r.sqes, unix.MADV_DONTFORK)
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqHead, r.sqTail, r.sqFlags, r.sqMask = at(p.sq.head), at(p.sq.tail), at(p.sq.flags), *at(p.sq.ringMask)
	r.cqHead, r.cqTail, r.cqMask = at(p.cq.head), at(p.cq.tail), *at(p.cq.ringMask)
	r.cqes = unsafe.Pointer(&r.rings[p.cq.cqes])
	// Entry i of the submission queue is always SQE i, so the array is filled once.
	for i := range p.sqEntries {
		*at(p.sq.array + 4*i) = i
	}
	return nil
}

// Entries is how many entries may be in flight.
func (r *Ring) Entries() int { return int(r.entries) }

// FD is the ring's descriptor. It polls readable when completions can be reaped,
// or would be delivered by Enter.
func (r *Ring) FD() int { return r.fd }

// SQE returns the next entry to fill in, zeroed, or nil when the submission queue
// is full: Enter makes room.
func (r *Ring) SQE() *SQE {
	// The kernel takes entries only within Enter, so what is between is ours.
	if r.tail-atomic.LoadUint32(r.sqHead) == r.entries {
		return nil
	}
	s := (*SQE)(unsafe.Pointer(&r.sqes[uintptr(r.tail&r.sqMask)*unsafe.Sizeof(SQE{})]))
	*s = SQE{}
	r.tail++
	return s
}

// Staged is the number of entries in the submission queue.
func (r *Ring) Staged() int { return int(r.tail - atomic.LoadUint32(r.sqHead)) }

// Enter submits what is staged and delivers completions that are due; with
// wait > 0 it sleeps until that many are there. EINTR may end the sleep. EAGAIN
// and EBUSY say that the kernel has no memory for more just now: what was not
// taken stays staged.
func (r *Ring) Enter(wait int) error { return r.enter(wait, enterGetEvents, nil) }

// EnterFor is Enter, but sleeps for at most so long, and fails with ETIME then.
func (r *Ring) EnterFor(wait int, most time.Duration) error {
	limit := unix.NsecToTimespec(int64(most))
	return r.enter(wait, enterGetEvents|enterExtArg, &getEventsArg{ts: &limit})
}

func (r *Ring) enter(wait int, flags uintptr, arg *getEventsArg) error {
	// The store is a release: the entries are visible before the tail
	// (io_uring(7); Linux pairs it in io_sqring_entries).
	if r.shown != r.tail {
		atomic.StoreUint32(r.sqTail, r.tail)
		r.shown = r.tail
	}
	var size uintptr
	if arg != nil {
		size = unsafe.Sizeof(*arg)
	}
	for {
		r.calls++
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.Staged()), uintptr(wait), flags, uintptr(unsafe.Pointer(arg)), size)
		switch {
		case errno == unix.EINTR && wait == 0:
			continue
		case errno != 0:
			return errno
		}
		return nil
	}
}

// Unstage takes back what is staged and was not submitted, and returns its user data.
// It is for a ring that Enter has failed for.
func (r *Ring) Unstage() (data []uint64) {
	head := atomic.LoadUint32(r.sqHead)
	for i := head; i != r.tail; i++ {
		data = append(data, (*SQE)(unsafe.Pointer(&r.sqes[uintptr(i&r.sqMask)*unsafe.Sizeof(SQE{})])).UserData)
	}
	r.tail, r.shown = head, head
	atomic.StoreUint32(r.sqTail, head)
	return data
}

// Calls is how often the kernel was entered: what a batch costs, for tests.
func (r *Ring) Calls() uint64 { return r.calls }

// Due says that completions wait to be delivered by Enter.
func (r *Ring) Due() bool {
	return atomic.LoadUint32(r.sqFlags)&(sqTaskrun|sqCQOverflow) != 0
}

// Next takes a completion, and is false when none is there.
func (r *Ring) Next() (CQE, bool) {
	if r.head == r.seen {
		// The acquire pairs with the kernel's release (io_commit_cqring).
		if r.seen = atomic.LoadUint32(r.cqTail); r.head == r.seen {
			return CQE{}, false
		}
	}
	c := *(*CQE)(unsafe.Add(r.cqes, uintptr(r.head&r.cqMask)*unsafe.Sizeof(CQE{})))
	r.head++
	atomic.StoreUint32(r.cqHead, r.head) // a release: the entry has been copied
	return c, true
}

// Close gives the ring back. What is in flight is cancelled or waited for by the
// kernel in its own time, so nothing should be.
func (r *Ring) Close() error {
	var errs []error
	for _, m := range [][]byte{r.rings, r.sqes} {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
		}
	}
	return errors.Join(append(errs, unix.Close(r.fd))...)
}
