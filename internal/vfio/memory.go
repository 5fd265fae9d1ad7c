package vfio

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vfiouser"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// memory is the client's DMA map, as far as the device can use it.
type memory struct {
	regions []*guestmem.Region
	current *guestmem.Memory // of regions; nil: there are none
	warn    func(format string, args ...any)
}

// mapRegion maps memory of the client; nil if the device is not to use it: memory that the
// client cannot share, and memory that the device must not write, such as a ROM, which holds
// neither rings nor buffers. file is closed: the mapping does not need it.
func mapRegion(m vfiouser.DMA, file *foreign.FD) (*guestmem.Region, error) {
	if file == nil {
		return nil, nil
	}
	defer func() { _ = file.Close() }()
	if !m.Writable || !m.Readable {
		return nil, nil
	}
	// The driver gives the addresses of its rings as those of its requests.
	r, err := guestmem.Map(file.Int(), guestmem.RegionDesc{GuestAddr: m.Address, UserAddr: m.Address, Size: m.Size, MmapOffset: m.Offset})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, unix.EINVAL)
	}
	return r, nil
}

// with adds a region, and returns the memory that there is then.
func (m *memory) with(r *guestmem.Region) (*guestmem.Memory, error) {
	all := append(m.regions[:len(m.regions):len(m.regions)], r)
	mem, err := guestmem.New(all)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, unix.EINVAL)
	}
	m.regions = all
	return mem, nil
}

// without removes regions, and returns the memory that is left, and what was removed, to be
// unmapped when nothing uses it any more.
func (m *memory) without(maps []vfiouser.DMA) (left *guestmem.Memory, gone []*guestmem.Region) {
	removed := make(map[uint64]bool, len(maps))
	for _, d := range maps {
		removed[d.Address] = true
	}
	var rest []*guestmem.Region
	for _, r := range m.regions {
		if removed[r.Desc().GuestAddr] {
			gone = append(gone, r)
		} else {
			rest = append(rest, r)
		}
	}
	m.regions = rest
	if len(rest) == 0 {
		return nil, gone
	}
	left, err := guestmem.New(rest)
	if err != nil {
		panic(fmt.Sprintf("vfio: regions that did not overlap: %v", err))
	}
	return left, gone
}

// clear removes all regions.
func (m *memory) clear() (gone []*guestmem.Region) {
	gone = m.regions
	m.regions, m.current = nil, nil
	return gone
}

func (m *memory) unmap(r *guestmem.Region) {
	if err := r.Unmap(); err != nil {
		m.warn("%v", err)
	}
}
