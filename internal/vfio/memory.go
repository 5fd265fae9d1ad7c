package vfio

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vfiouser"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// memory is the client's DMA map, as far as the device can use it.
type memory struct {
	regions []*guestmem.Region
	current *guestmem.Memory // what queues use; nil: none. Regions that were added last may be missing
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
		return nil, &vfiouser.Refusal{Errno: unix.EINVAL, Why: err.Error()}
	}
	return r, nil
}

// add adds a region, which replace makes usable.
func (m *memory) add(r *guestmem.Region) error {
	all := append(m.regions[:len(m.regions):len(m.regions)], r)
	if _, err := guestmem.New(all); err != nil {
		return &vfiouser.Refusal{Errno: unix.EINVAL, Why: err.Error()}
	}
	m.regions = all
	return nil
}

// has says whether the device can use any of the maps.
func (m *memory) has(maps []vfiouser.DMA) bool {
	return slices.ContainsFunc(m.regions, among(maps))
}

// among returns whether a region is one of maps.
func among(maps []vfiouser.DMA) func(*guestmem.Region) bool {
	addresses := make(map[uint64]bool, len(maps))
	for _, d := range maps {
		addresses[d.Address] = true
	}
	return func(r *guestmem.Region) bool { return addresses[r.Desc().GuestAddr] }
}

// replace removes maps, and makes what is left the current memory. It returns the regions that
// are to be unmapped.
func (m *memory) replace(maps []vfiouser.DMA) (gone []*guestmem.Region) {
	var rest []*guestmem.Region
	removed := among(maps)
	for _, r := range m.regions {
		if removed(r) {
			gone = append(gone, r)
		} else {
			rest = append(rest, r)
		}
	}
	m.regions, m.current = rest, nil
	if len(rest) == 0 {
		return gone
	}
	var err error
	if m.current, err = guestmem.New(rest); err != nil {
		panic(fmt.Sprintf("vfio: regions that did not overlap: %v", err))
	}
	return gone
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
