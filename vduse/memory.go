package vduse

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// memory is what the driver has given of its memory, as far as somebody has asked for it.
//
// The kernel gives the memory of an address when it is asked (VDUSE_IOTLB_GET_FD), and it does
// not say when there is more: Linux's virtio_vdpa has a region of its own for each ring, which
// comes and goes with the ring, and one through which it copies all data, which comes with the
// first request. So regions are looked up when an address is missing: those of rings before the
// rings start, others by the workers. A region stays mapped until the kernel takes the address
// back (UPDATE_IOTLB), or the device is reset: the ring's memory is another's then, and the
// kernel does not say so.
type memory struct {
	kernel Kernel

	mu      sync.Mutex
	regions []*guestmem.Region
	mem     *guestmem.Memory // of regions; nil: there are none
}

// maxRegions is how many regions a device may have: as many as vhost-user's sessions. Linux's
// virtio_vdpa has one for each ring and one more.
const maxRegions = 509

// get is all memory that is mapped. It grows when an address is missing.
func (m *memory) get() (*guestmem.Memory, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mem == nil {
		mem, err := guestmem.New(m.regions)
		if err != nil {
			return nil, err
		}
		mem.OnMissing(m.find)
		m.mem = mem
	}
	return m.mem, nil
}

// find asks the kernel for the region that an address is in.
func (m *memory) find(addr uint64) (*guestmem.Region, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.regions) >= maxRegions {
		return nil, fmt.Errorf("the device has %d memory regions already", maxRegions)
	}
	for _, r := range m.regions { // another worker was faster
		if d := r.Desc(); addr >= d.GuestAddr && addr-d.GuestAddr < d.Size {
			return r, nil
		}
	}
	at, err := m.kernel.Lookup(addr)
	if err != nil {
		return nil, fmt.Errorf("looking up memory at %#x: %w", addr, err)
	}
	defer func() { _ = at.File.Close() }()
	size := at.Last - at.Start + 1
	if size == 0 { // all addresses that there are
		return nil, fmt.Errorf("the region at %#x has no end", at.Start)
	}
	prot := 0
	if at.Perm&accessRO != 0 {
		prot |= unix.PROT_READ
	}
	if at.Perm&accessWO != 0 {
		prot |= unix.PROT_WRITE
	}
	r, err := guestmem.MapUnsized(at.File.Int(), guestmem.RegionDesc{GuestAddr: at.Start, UserAddr: at.Start, Size: size, MmapOffset: at.Offset}, prot)
	if err != nil {
		return nil, err
	}
	m.regions = append(m.regions, r)
	return r, nil
}

// has says whether something is mapped between two addresses, both included.
func (m *memory) has(start, last uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.regions, func(r *guestmem.Region) bool { return overlaps(r, start, last) })
}

func overlaps(r *guestmem.Region, start, last uint64) bool {
	d := r.Desc()
	return d.GuestAddr <= last && start <= d.GuestAddr+(d.Size-1)
}

// drop unmaps what is mapped between two addresses, both included. No ring runs.
func (m *memory) drop(start, last uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var err error
	m.regions = slices.DeleteFunc(m.regions, func(r *guestmem.Region) bool {
		if !overlaps(r, start, last) {
			return false
		}
		err = errors.Join(err, r.Unmap())
		return true
	})
	m.mem = nil
	return err
}

const lastAddr = 1<<64 - 1
