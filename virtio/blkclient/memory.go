package blkclient

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// The start of the guest's memory in its two address spaces. They differ from each other
// and from this process's mapping, so that a mix-up is detected.
const (
	GuestBase uint64 = 0x1_0000_0000
	UserBase  uint64 = 0x5500_0000_0000
)

// A Region is a piece of guest memory in a memfd of its own.
type Region struct {
	file *foreign.FD
	mem  *guestmem.Region
}

// NewRegion makes a memfd that is large enough for d, and maps it as described by d.
func NewRegion(d guestmem.RegionDesc) (*Region, error) {
	fd, err := unix.MemfdCreate("zvhost-guest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd for guest memory: %w", err)
	}
	r := &Region{file: foreign.NewFD(fd)}
	if err := unix.Ftruncate(fd, int64(d.MmapOffset+d.Size)); err != nil {
		_ = r.file.Close()
		return nil, fmt.Errorf("memfd of %d bytes for guest memory: %w", d.MmapOffset+d.Size, err)
	}
	if r.mem, err = guestmem.Map(fd, d); err != nil {
		_ = r.file.Close()
		return nil, err
	}
	return r, nil
}

// Desc describes the region.
func (r *Region) Desc() guestmem.RegionDesc { return r.mem.Desc() }

// FD lends the memfd out.
func (r *Region) FD() int { return r.file.Int() }

// Close unmaps the region and closes its memfd. It must not be in use.
func (r *Region) Close() error {
	return errors.Join(r.mem.Unmap(), r.file.Close())
}

// Memory is guest memory in one region, allocated from its beginning to its end.
type Memory struct {
	*guestmem.Memory
	Region *Region
	next   uint64 // guest address
}

// NewMemory makes size bytes of guest memory at GuestBase.
func NewMemory(size uint64) (*Memory, error) {
	r, err := NewRegion(guestmem.RegionDesc{GuestAddr: GuestBase, Size: size, UserAddr: UserBase})
	if err != nil {
		return nil, err
	}
	m, err := guestmem.New([]*guestmem.Region{r.mem})
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return &Memory{Memory: m, Region: r, next: GuestBase}, nil
}

// Alloc allocates n bytes of guest memory, n > 0, at a multiple of align, a power of two up
// to 4096. They are never freed.
func (m *Memory) Alloc(n, align uint64) (guestAddr uint64, b []byte, err error) {
	guestAddr = (m.next + align - 1) &^ (align - 1)
	b, err = m.Bytes(guestAddr, n)
	if err != nil {
		return 0, nil, fmt.Errorf("guest memory is used up: %w", err)
	}
	m.next = guestAddr + n
	return guestAddr, b, nil
}

// UserAddr translates an address of Alloc into the one that ring addresses use.
func (m *Memory) UserAddr(guestAddr uint64) uint64 { return guestAddr - GuestBase + UserBase }

// Close releases the memory. It must not be in use.
func (m *Memory) Close() error { return m.Region.Close() }
