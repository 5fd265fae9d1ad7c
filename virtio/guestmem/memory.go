package guestmem

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/iovec"
)

// Memory is a set of regions, and translates addresses into them. It never
// changes, so any number of goroutines may use it at once; a new memory table
// makes a new Memory.
type Memory struct {
	spans []span // by guest address, not overlapping
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
	m := &Memory{spans: make([]span, 0, len(regions))}
	for _, r := range regions {
		if err := r.desc.check(); err != nil {
			return nil, err
		}
		if uint64(len(r.mem)) != r.desc.Size {
			return nil, fmt.Errorf("memory region at guest address %#x is unmapped", r.desc.GuestAddr)
		}
		m.spans = append(m.spans, span{r.desc.GuestAddr, r.desc.Size, r.desc.UserAddr, r.mem})
	}
	slices.SortFunc(m.spans, func(a, b span) int { return cmp.Compare(a.guest, b.guest) })
	for i := 1; i < len(m.spans); i++ {
		if a, b := &m.spans[i-1], &m.spans[i]; b.guest-a.guest < a.size {
			return nil, fmt.Errorf("memory regions overlap: %#x bytes at guest address %#x reach into the region at %#x", a.size, a.guest, b.guest)
		}
	}
	return m, nil
}

// find returns the number of the region that holds a guest address, -1 if none does. Memory
// tables usually have one to three regions, and at most 509 (VHOST_USER_MAX_RAM_SLOTS of
// QEMU), so a binary search is never slow.
func (m *Memory) find(addr uint64) int {
	lo, hi := 0, len(m.spans)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if s := &m.spans[mid]; addr < s.guest {
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
	if i := m.find(guestAddr); i >= 0 && n > 0 {
		s := &m.spans[i]
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
	for i := range m.spans {
		s := &m.spans[i]
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
	for i := m.find(addr); i >= 0 && i < len(m.spans) && m.spans[i].guest <= addr; i++ {
		s := &m.spans[i]
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
	return dst[:was], fmt.Errorf("guest address %#x, %#x bytes: %w", guestAddr, n, &MissingError{addr})
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
