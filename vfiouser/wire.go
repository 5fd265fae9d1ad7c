package vfiouser

import (
	"encoding/binary"
	"fmt"
)

// The layouts on the wire. Each Parse function takes the exact bytes; Append writes them.

// Sizes in bytes.
const (
	HeaderSize = 16
	// MaxData is the most data that one REGION_READ or REGION_WRITE moves: the protocol's
	// default of max_data_xfer_size.
	MaxData = 1 << 20
	// MaxPayload bounds what may follow the header of a message.
	MaxPayload = accessSize + MaxData
	// MaxFDs is how many descriptors may come with a message. QEMU refuses a server that
	// states more than 16.
	MaxFDs = 16

	versionSize     = 4
	mappingSize     = 32
	unmappingSize   = 24
	deviceInfoSize  = 16
	regionInfoSize  = 32
	regionIOFDsSize = 16
	irqInfoSize     = 16
	irqSetSize      = 20
	accessSize      = 16
)

// The flags of a header.
const (
	FlagTypeMask uint32 = 0xf
	FlagReply    uint32 = 0x1 // the type of a reply; of a command it is 0
	FlagNoReply  uint32 = 0x10
	FlagError    uint32 = 0x20
)

var le = binary.LittleEndian

// Header begins each message.
type Header struct {
	ID      uint16
	Command Command
	Size    uint32 // of the whole message
	Flags   uint32
	Errno   uint32
}

// ParseHeader reads HeaderSize bytes.
func ParseHeader(b []byte) (Header, error) {
	if err := exact(b, HeaderSize); err != nil {
		return Header{}, err
	}
	return Header{le.Uint16(b), Command(le.Uint16(b[2:])), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}, nil
}

// Append appends the header to b.
func (h Header) Append(b []byte) []byte {
	b = le.AppendUint16(b, h.ID)
	b = le.AppendUint16(b, uint16(h.Command))
	return appendU32s(b, h.Size, h.Flags, h.Errno)
}

// check says what makes a stream unusable: where the next message begins is not known, or it
// does not come from the expected end.
func (h Header) check(reply bool) error {
	want := uint32(0)
	if reply {
		want = FlagReply
	}
	switch {
	case h.Size < HeaderSize:
		return fmt.Errorf("%v: message size %d, a header has %d bytes", h.Command, h.Size, HeaderSize)
	case h.Size > HeaderSize+MaxPayload:
		return fmt.Errorf("%v: message size %d, at most %d", h.Command, h.Size, HeaderSize+MaxPayload)
	case h.Flags&FlagTypeMask != want:
		return fmt.Errorf("%v: message type %d instead of %d", h.Command, h.Flags&FlagTypeMask, want)
	}
	return nil
}

// exact checks a length.
func exact(b []byte, n int) error {
	if len(b) != n {
		return fmt.Errorf("%d bytes instead of %d", len(b), n)
	}
	return nil
}

// atLeast checks the length of what has a variable part.
func atLeast(b []byte, n int) error {
	if len(b) < n {
		return fmt.Errorf("%d bytes, it has at least %d", len(b), n)
	}
	return nil
}

func appendU32s(b []byte, vs ...uint32) []byte {
	for _, v := range vs {
		b = le.AppendUint32(b, v)
	}
	return b
}

func appendU64s(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = le.AppendUint64(b, v)
	}
	return b
}

// VersionData is the payload of VERSION and of its reply.
type VersionData struct {
	Major, Minor uint16
	Data         []byte // JSON and a NUL; may be empty
}

// ParseVersion reads a VersionData.
func ParseVersion(b []byte) (VersionData, error) {
	if err := atLeast(b, versionSize); err != nil {
		return VersionData{}, err
	}
	return VersionData{le.Uint16(b), le.Uint16(b[2:]), b[versionSize:]}, nil
}

// Append appends v to b.
func (v VersionData) Append(b []byte) []byte {
	b = le.AppendUint16(b, v.Major)
	b = le.AppendUint16(b, v.Minor)
	return append(b, v.Data...)
}

// The flags of a Mapping.
const (
	MapRead  uint32 = 1 << 0 // the device may read the memory
	MapWrite uint32 = 1 << 1 // the device may write it
)

// Mapping is the payload of DMA_MAP.
type Mapping struct {
	Argsz, Flags          uint32
	Offset, Address, Size uint64
}

// ParseMapping reads a Mapping.
func ParseMapping(b []byte) (Mapping, error) {
	if err := exact(b, mappingSize); err != nil {
		return Mapping{}, err
	}
	return Mapping{le.Uint32(b), le.Uint32(b[4:]), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}, nil
}

// Append appends m to b.
func (m Mapping) Append(b []byte) []byte {
	return appendU64s(appendU32s(b, m.Argsz, m.Flags), m.Offset, m.Address, m.Size)
}

// The flags of an Unmapping, as linux/vfio.h defines them.
const (
	UnmapGetDirtyBitmap uint32 = 1 << 0
	UnmapAll            uint32 = 1 << 1
)

// Unmapping is the payload of DMA_UNMAP and of its reply.
type Unmapping struct {
	Argsz, Flags  uint32
	Address, Size uint64
}

// ParseUnmapping reads an Unmapping.
func ParseUnmapping(b []byte) (Unmapping, error) {
	if err := exact(b, unmappingSize); err != nil {
		return Unmapping{}, err
	}
	return Unmapping{le.Uint32(b), le.Uint32(b[4:]), le.Uint64(b[8:]), le.Uint64(b[16:])}, nil
}

// Append appends u to b.
func (u Unmapping) Append(b []byte) []byte {
	return appendU64s(appendU32s(b, u.Argsz, u.Flags), u.Address, u.Size)
}

// The flags of a DeviceInfo.
const (
	DeviceReset uint32 = 1 << 0
	DevicePCI   uint32 = 1 << 1
)

// DeviceInfo is the payload of DEVICE_GET_INFO and of its reply.
type DeviceInfo struct{ Argsz, Flags, Regions, IRQs uint32 }

// ParseDeviceInfo reads a DeviceInfo.
func ParseDeviceInfo(b []byte) (DeviceInfo, error) {
	if err := exact(b, deviceInfoSize); err != nil {
		return DeviceInfo{}, err
	}
	return DeviceInfo{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}, nil
}

// Append appends i to b.
func (i DeviceInfo) Append(b []byte) []byte {
	return appendU32s(b, i.Argsz, i.Flags, i.Regions, i.IRQs)
}

// The flags of a region (VFIO_REGION_INFO_FLAG_*).
const (
	RegionReadable uint32 = 1 << 0
	RegionWritable uint32 = 1 << 1
)

// RegionInfo is the payload of DEVICE_GET_REGION_INFO and of its reply.
type RegionInfo struct {
	Argsz, Flags, Index, CapOffset uint32
	Size, Offset                   uint64
}

// ParseRegionInfo reads a RegionInfo.
func ParseRegionInfo(b []byte) (RegionInfo, error) {
	if err := exact(b, regionInfoSize); err != nil {
		return RegionInfo{}, err
	}
	return RegionInfo{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint64(b[16:]), le.Uint64(b[24:])}, nil
}

// Append appends r to b.
func (r RegionInfo) Append(b []byte) []byte {
	return appendU64s(appendU32s(b, r.Argsz, r.Flags, r.Index, r.CapOffset), r.Size, r.Offset)
}

// RegionIOFDs is the payload of DEVICE_GET_REGION_IO_FDS, and of a reply with no sub-region.
type RegionIOFDs struct{ Argsz, Flags, Index, Count uint32 }

// ParseRegionIOFDs reads a RegionIOFDs.
func ParseRegionIOFDs(b []byte) (RegionIOFDs, error) {
	if err := exact(b, regionIOFDsSize); err != nil {
		return RegionIOFDs{}, err
	}
	return RegionIOFDs{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}, nil
}

// Append appends r to b.
func (r RegionIOFDs) Append(b []byte) []byte {
	return appendU32s(b, r.Argsz, r.Flags, r.Index, r.Count)
}

// The flags of an interrupt type (VFIO_IRQ_INFO_*).
const (
	IRQEventfd  uint32 = 1 << 0
	IRQMaskable uint32 = 1 << 1
)

// IRQInfo is the payload of DEVICE_GET_IRQ_INFO and of its reply.
type IRQInfo struct{ Argsz, Flags, Index, Count uint32 }

// ParseIRQInfo reads an IRQInfo.
func ParseIRQInfo(b []byte) (IRQInfo, error) {
	if err := exact(b, irqInfoSize); err != nil {
		return IRQInfo{}, err
	}
	return IRQInfo{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])}, nil
}

// Append appends i to b.
func (i IRQInfo) Append(b []byte) []byte {
	return appendU32s(b, i.Argsz, i.Flags, i.Index, i.Count)
}

// The flags of an IRQSet (VFIO_IRQ_SET_*).
const (
	IRQDataNone    uint32 = 1 << 0
	IRQDataBool    uint32 = 1 << 1
	IRQDataEventfd uint32 = 1 << 2
	IRQMask        uint32 = 1 << 3
	IRQUnmask      uint32 = 1 << 4
	IRQTrigger     uint32 = 1 << 5

	irqDataBits   = IRQDataNone | IRQDataBool | IRQDataEventfd
	irqActionBits = IRQMask | IRQUnmask | IRQTrigger
)

// IRQSet is the payload of DEVICE_SET_IRQS.
type IRQSet struct {
	Argsz, Flags, Index, Start, Count uint32
	Data                              []byte // booleans
}

// ParseIRQSet reads an IRQSet.
func ParseIRQSet(b []byte) (IRQSet, error) {
	if err := atLeast(b, irqSetSize); err != nil {
		return IRQSet{}, err
	}
	return IRQSet{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:]), b[irqSetSize:]}, nil
}

// Append appends s to b.
func (s IRQSet) Append(b []byte) []byte {
	return append(appendU32s(b, s.Argsz, s.Flags, s.Index, s.Start, s.Count), s.Data...)
}

// Access is the payload of REGION_READ and REGION_WRITE and of their replies.
type Access struct {
	Offset        uint64
	Region, Count uint32
	Data          []byte
}

// ParseAccess reads an Access.
func ParseAccess(b []byte) (Access, error) {
	if err := atLeast(b, accessSize); err != nil {
		return Access{}, err
	}
	return Access{le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:]), b[accessSize:]}, nil
}

// Append appends a to b.
func (a Access) Append(b []byte) []byte {
	return append(appendU32s(le.AppendUint64(b, a.Offset), a.Region, a.Count), a.Data...)
}
