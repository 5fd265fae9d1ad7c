package vfiouser

import (
	"math"
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// The DMA map: which of the client's memory the device may use. The session holds which maps
// there are, so that the device gets correct ones only.

// A dmaMap is one map. The device has its file.
type dmaMap struct {
	DMA
	shared bool // it came with a descriptor
}

func (s *Session) dmaMap(m *Message) ([]byte, error) {
	d, err := ParseMapping(m.Payload)
	switch {
	case err != nil:
		return nil, err
	case d.Argsz < mappingSize:
		return nil, refuse(unix.EINVAL, "argsz %d instead of %d", d.Argsz, mappingSize)
	case d.Flags&^(MapRead|MapWrite) != 0 || d.Flags == 0:
		return nil, refuse(unix.EINVAL, "flags %#x: readable (1), writeable (2) or both may be set", d.Flags)
	case d.Size == 0 || d.Size%PageSize != 0 || d.Address%PageSize != 0 || d.Offset%PageSize != 0:
		return nil, refuse(unix.EINVAL, "address, size and offset have to be multiples of %d, and size not 0", PageSize)
	case d.Address > math.MaxUint64-d.Size+1 || d.Offset > math.MaxInt64-min(d.Size, math.MaxInt64):
		return nil, refuse(unix.EINVAL, "the range ends beyond what 64 bits can address")
	}
	at, overlaps := s.findMap(d.Address, d.Size)
	if overlaps {
		return nil, refuse(unix.EEXIST, "it overlaps the map at %#x of %#x bytes", s.state.maps[at].Address, s.state.maps[at].Size)
	}
	if len(s.state.maps) >= MaxMaps {
		return nil, refuse(unix.ENOSPC, "there are %d maps, the most that are possible", MaxMaps)
	}
	fresh := dmaMap{DMA: DMA{d.Address, d.Size, d.Offset, d.Flags&MapRead != 0, d.Flags&MapWrite != 0}}
	var file *foreign.FD
	if len(m.Files) > 0 {
		file, fresh.shared = m.Take(0), true
	}
	if err := s.dev.MapDMA(fresh.DMA, file); err != nil {
		return nil, err
	}
	s.state.maps = slices.Insert(s.state.maps, at, fresh)
	return nil, nil
}

// findMap is the first map that ends behind addr, and whether it overlaps the range.
func (s *Session) findMap(addr, size uint64) (at int, overlaps bool) {
	maps := s.state.maps
	at = sort.Search(len(maps), func(i int) bool { return maps[i].Address+(maps[i].Size-1) >= addr })
	return at, at < len(maps) && maps[at].Address <= addr+(size-1)
}

func (s *Session) dmaUnmap(m *Message) ([]byte, error) {
	u, err := ParseUnmapping(m.Payload)
	switch {
	case err != nil:
		return nil, err
	case u.Argsz < unmappingSize:
		return nil, refuse(unix.EINVAL, "argsz %d, the reply has %d bytes", u.Argsz, unmappingSize)
	case u.Flags&UnmapGetDirtyBitmap != 0:
		return nil, refuse(unix.ENOTSUP, "dirty pages are not logged, since migration is not supported")
	case u.Flags&^UnmapAll != 0:
		return nil, refuse(unix.EINVAL, "flags %#x: only unmap-all (2) may be set", u.Flags)
	case u.Flags == UnmapAll && (u.Address != 0 || u.Size != 0):
		return nil, refuse(unix.EINVAL, "unmap-all with an address or a size, both have to be 0")
	case u.Flags == UnmapAll:
		all := make([]DMA, len(s.state.maps))
		for i := range all {
			all[i] = s.state.maps[i].DMA
		}
		if len(all) > 0 {
			if err := s.dev.UnmapDMA(all); err != nil {
				return nil, err
			}
		}
		s.state.maps = nil
		return u.Append(nil), nil
	}
	at, _ := s.findMap(u.Address, 1)
	if at == len(s.state.maps) || s.state.maps[at].Address != u.Address || s.state.maps[at].Size != u.Size {
		return nil, refuse(unix.ENOENT, "there is no map with exactly this address and size")
	}
	if err := s.dev.UnmapDMA([]DMA{s.state.maps[at].DMA}); err != nil {
		return nil, err
	}
	s.state.maps = slices.Delete(s.state.maps, at, at+1)
	return u.Append(nil), nil
}
