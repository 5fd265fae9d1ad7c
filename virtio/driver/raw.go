package driver

import "encoding/binary"

// The methods of this file write into the ring without any check, for tests that
// show what a device makes of it. What they write is visible at once, but for
// PutAvail, and a ring that was broken so is for nothing else any more.

// StartAt makes an unused ring begin at another index than 0, with the device's
// base the same: as after a reconnect, or to have indices wrap around soon.
func (r *Ring) StartAt(idx uint16) {
	r.availIdx, r.published, r.lastUsed, r.seenUsed = idx, idx, idx, idx
	r.storeAvail()
	r.usedIdx.Store(idx)
	r.usedEvent.Store(idx)
	r.availEvent.Store(idx)
}

// SetDesc writes a descriptor of the ring's table.
func (r *Ring) SetDesc(i uint16, addr uint64, length uint32, flags, next uint16) {
	putDesc(r.desc[int(i)*descBytes:], addr, length, flags, next)
}

// PutAvail puts any head into the available ring, to be published.
func (r *Ring) PutAvail(head uint16) {
	slot := int(r.availIdx & (r.layout.Size - 1))
	binary.LittleEndian.PutUint16(r.avail[2*slot:], head)
	r.availIdx++
}

// SetAvailIdx stores any index in the available ring.
func (r *Ring) SetAvailIdx(idx uint16) {
	r.availIdx, r.published = idx, idx
	r.storeAvail()
}

// SetUsedEvent stores any value where the driver says when it wants a call.
func (r *Ring) SetUsedEvent(idx uint16) { r.usedEvent.Store(idx) }

// DeviceFlags is what the device has stored in the flags of the used ring.
func (r *Ring) DeviceFlags() uint16 { return r.usedFlags.Load() }

// DeviceIdx is the used index.
func (r *Ring) DeviceIdx() uint16 { return r.usedIdx.Load() }

// AvailEvent is where the device wants a kick.
func (r *Ring) AvailEvent() uint16 { return r.availEvent.Load() }

// UsedEntry is the used entry that has been or will be written for index idx.
func (r *Ring) UsedEntry(idx uint16) (id, length uint32) {
	e := binary.LittleEndian.Uint64(r.used[8*int(idx&(r.layout.Size-1)):])
	return uint32(e), uint32(e >> 32)
}
