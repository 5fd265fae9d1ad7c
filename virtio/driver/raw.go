package driver

import "encoding/binary"

// The methods of this file write into the ring without any check, for tests that
// show what a device makes of it. What they write is visible at once, but for
// PutAvail, and a ring that was broken so is for nothing else any more. Those of a
// packed ring have Packed in their names, the others are for split rings.

// SetDesc writes a descriptor of the ring's table.
func (r *Ring) SetDesc(i uint16, addr uint64, length uint32, flags, next uint16) {
	putDesc(r.split.desc[int(i)*descBytes:], addr, length, flags, next)
}

// PutAvail puts any head into the available ring, to be published.
func (r *Ring) PutAvail(head uint16) {
	slot := int(r.split.availIdx & (r.split.layout.Size - 1))
	binary.LittleEndian.PutUint16(r.split.avail[2*slot:], head)
	r.split.availIdx++
}

// SetAvailIdx stores any index in the available ring.
func (r *Ring) SetAvailIdx(idx uint16) {
	r.split.availIdx, r.split.published = idx, idx
	r.split.storeAvail()
}

// SetUsedEvent stores any value where the driver says when it wants a call.
func (r *Ring) SetUsedEvent(idx uint16) { r.split.usedEvent.Store(idx) }

// DeviceFlags is what the device has stored in the flags of the used ring.
func (r *Ring) DeviceFlags() uint16 { return r.split.usedFlags.Load() }

// DeviceIdx is the used index.
func (r *Ring) DeviceIdx() uint16 { return r.split.usedIdx.Load() }

// AvailEvent is where the device wants a kick.
func (r *Ring) AvailEvent() uint16 { return r.split.availEvent.Load() }

// UsedEntry is the used entry that has been or will be written for index idx.
func (r *Ring) UsedEntry(idx uint16) (id, length uint32) {
	e := binary.LittleEndian.Uint64(r.split.used[8*int(idx&(r.split.layout.Size-1)):])
	return uint32(e), uint32(e >> 32)
}

// SetPackedDesc writes a descriptor of the ring.
func (r *Ring) SetPackedDesc(i uint16, addr uint64, length uint32, id, flags uint16) {
	d := r.packed.desc[int(i)*descBytes:]
	binary.LittleEndian.PutUint64(d, addr)
	binary.LittleEndian.PutUint32(d[8:], length)
	r.packed.wordAt(i).Store(uint32(id) | uint32(flags)<<16)
}

// PackedDesc reads a descriptor of the ring.
func (r *Ring) PackedDesc(i uint16) (addr uint64, length uint32, id, flags uint16) {
	word := r.packed.wordAt(i).Load()
	d := r.packed.desc[int(i)*descBytes:]
	return binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint32(d[8:]), uint16(word), uint16(word >> 16)
}

// SetPackedEvent stores any word in the driver's event suppression structure:
// offset and wrap counter in the lower half, flags in the upper.
func (r *Ring) SetPackedEvent(word uint32) { r.packed.driverEvent.Store(word) }

// PackedEvent is the word in the device's event suppression structure.
func (r *Ring) PackedEvent() uint32 { return r.packed.deviceEvent.Load() }
