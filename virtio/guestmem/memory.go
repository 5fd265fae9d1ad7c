package guestmem

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/iovec"
)

// Memory is a set of regions, and translates addresses into them. Any number of goroutines may
// use it at once. No region goes and none changes: a new memory table makes a new Memory. Only
// OnMissing lets it grow.
type Memory struct {
	spans atomic.Pointer[[]span] // by guest address, not overlapping
	// more looks for the region of an address that is in none; nil: there are no others.
	more    func(guestAddr uint64) (*Region, error)
	growing sync.Mutex
}

// A span is a region in the form that translation needs.
type span struct {
	guest, size, user uint64
	mem               []byte
}

// New makes a memory of regions, which the caller unmaps. It refuses regions that are
// empty, wrap around or overlap in the guest's address space. Two regions may share
// front-end addresses: the guest may see one piece of memory in two places.
func New(regions []*Region) (*Memory, error) {
	m := new(Memory)
	if err := m.add(regions...); err != nil {
		return nil, err
	}
	return m, nil
}

// add adds regions to those that there are.
func (m *Memory) add(regions ...*Region) error {
	spans := slices.Clone(m.all())
	for _, r := range regions {
		if err := r.desc.check(); err != nil {
			return err
		}
		if uint64(len(r.mem)) != r.desc.Size {
			return fmt.Errorf("memory region at guest address %#x is unmapped", r.desc.GuestAddr)
		}
		spans = append(spans, span{r.desc.GuestAddr, r.desc.Size, r.desc.UserAddr, r.mem})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.guest, b.guest) })
	for i := 1; i < len(spans); i++ {
		if a, b := &spans[i-1], &spans[i]; b.guest-a.guest < a.size {
			return fmt.Errorf("memory regions overlap: %#x bytes at guest address %#x reach into the region at %#x", a.size, a.guest, b.guest)
		}
	}
	m.spans.Store(&spans)
	return nil
}

// all are the regions as they are now.
func (m *Memory) all() []span {
	if p := m.spans.Load(); p != nil {
		return *p
	}
	return nil
}

// OnMissing sets the function that is asked for the region of a guest address that is in none,
// for front-ends that have memory which they do not announce. Its region must contain the
// address and overlap no other; the caller unmaps it with the others. Several goroutines may
// call it, one at a time. OnMissing is called before the memory is used.
func (m *Memory) OnMissing(more func(guestAddr uint64) (*Region, error)) { m.more = more }

// grow adds the region that guest address addr is in. It is false if there is none.
func (m *Memory) grow(addr uint64) bool {
	if m.more == nil {
		return false
	}
	m.growing.Lock()
	defer m.growing.Unlock()
	if find(m.all(), addr) >= 0 {
		return true // another goroutine was faster
	}
	r, err := m.more(addr)
	return err == nil && addr-r.desc.GuestAddr < r.desc.Size && m.add(r) == nil
}

// find returns the number of the region that holds a guest address, -1 if none does. Memory
// tables usually have one to three regions, and at most 509 (VHOST_USER_MAX_RAM_SLOTS of
// QEMU), so a binary search is never slow.
func find(spans []span, addr uint64) int {
	lo, hi := 0, len(spans)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if s := &spans[mid]; addr < s.guest {
			hi = mid
		} else if addr-s.guest < s.size {
			return mid
		} else {
			lo = mid + 1
		}
	}
	return -1
}

// Bytes returns the n bytes at a guest address, n > 0. They must lie in one
// region.
func (m *Memory) Bytes(guestAddr, n uint64) ([]byte, error) {
	spans := m.all()
	if i := find(spans, guestAddr); i >= 0 && n > 0 {
		s := &spans[i]
		if off := guestAddr - s.guest; n <= s.size-off {
			return s.mem[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("guest address %#x, %#x bytes: not inside one memory region", guestAddr, n)
}

// A MissingError is a guest address in no region, or the first of several.
type MissingError struct{ Addr uint64 }

func (e *MissingError) Error() string {
	return fmt.Sprintf("not all of it is guest memory: %#x is not", e.Addr)
}

// UserBytes returns the n bytes at an address of the front-end, n > 0. They must be in one
// region. It is for setting up rings, and checks every region.
func (m *Memory) UserBytes(userAddr, n uint64) ([]byte, error) {
	spans := m.all()
	for i := range spans {
		s := &spans[i]
		if off := userAddr - s.user; userAddr >= s.user && off < s.size && n > 0 && n <= s.size-off {
			return s.mem[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("user address %#x, %#x bytes: not inside one memory region", userAddr, n)
}

// AppendIovecs appends the n bytes at a guest address to dst, one vector for each region
// that they cross: adjacent regions are one piece of memory to the guest. On an error,
// which wraps a MissingError, dst is returned unchanged. It allocates only when dst has no
// room.
func (m *Memory) AppendIovecs(dst []unix.Iovec, guestAddr, n uint64) ([]unix.Iovec, error) {
	if n == 0 {
		return dst, nil
	}
	was, addr, left := len(dst), guestAddr, n
	for {
		spans := m.all()
		for i := find(spans, addr); i >= 0 && i < len(spans) && spans[i].guest <= addr; i++ {
			s := &spans[i]
			off := addr - s.guest
			if off >= s.size {
				break // a gap between this region and the previous one
			}
			k := min(left, s.size-off)
			dst = append(dst, unix.Iovec{Base: &s.mem[off], Len: k})
			if left -= k; left == 0 {
				return dst, nil
			}
			addr += k
		}
		if !m.grow(addr) {
			return dst[:was], fmt.Errorf("guest address %#x, %#x bytes: %w", guestAddr, n, &MissingError{addr})
		}
	}
}

// ReadAt copies len(dst) bytes from a guest address; they may cross adjacent regions.
func (m *Memory) ReadAt(dst []byte, guestAddr uint64) error {
	var few [4]unix.Iovec
	iov, err := m.AppendIovecs(few[:0], guestAddr, uint64(len(dst)))
	if err != nil {
		return err
	}
	for _, v := range iov {
		dst = dst[copy(dst, iovec.Bytes(v)):]
	}
	return nil
}
