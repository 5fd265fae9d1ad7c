package vhostuser

import (
	"encoding/binary"
	"fmt"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Sizes on the wire, in bytes.
const (
	// HeaderSize is the size of the header in front of each message.
	HeaderSize = 12
	// MaxPayload bounds what is read for one message. The longest that this
	// package acts on is a configuration access of 268; the bound leaves room
	// to answer longer ones of other devices with an error.
	MaxPayload = 4096
	// MaxConfig is the largest configuration access (VHOST_USER_MAX_CONFIG_SIZE).
	MaxConfig = 256
	// MaxTableRegions is how many regions fit into one SET_MEM_TABLE.
	MaxTableRegions = 8

	u64Size          = 8
	vringStateSize   = 8
	vringAddrSize    = 40
	logSize          = 16
	regionSize       = 32
	memTableHeadSize = 8
	memRegSize       = 8 + regionSize
	configHeadSize   = 12
)

// The flags word of a header ("Header" in the protocol).
const (
	Version       uint32 = 1      // the only version there is
	FlagReply     uint32 = 1 << 2 // set on what the back-end sends
	FlagNeedReply uint32 = 1 << 3 // REPLY_ACK: answer even if there is nothing to return

	versionMask uint32 = 3
)

var le = binary.LittleEndian

// Header precedes each message.
type Header struct {
	Request Request
	Flags   uint32
	Size    uint32 // bytes of payload that follow
}

// ParseHeader reads a header from b, which must be HeaderSize bytes.
func ParseHeader(b []byte) (Header, error) {
	if len(b) != HeaderSize {
		return Header{}, fmt.Errorf("header of %d bytes instead of %d", len(b), HeaderSize)
	}
	return Header{Request(le.Uint32(b)), le.Uint32(b[4:]), le.Uint32(b[8:])}, nil
}

// Append appends the header's wire form to b.
func (h Header) Append(b []byte) []byte {
	b = le.AppendUint32(b, uint32(h.Request))
	b = le.AppendUint32(b, h.Flags)
	return le.AppendUint32(b, h.Size)
}

// check reports whether a header may appear in a stream of requests (reply false)
// or of replies. After a header that may not, nothing in the stream can be
// trusted any more.
func (h Header) check(reply bool) error {
	allowed := versionMask | FlagNeedReply
	if reply {
		allowed = versionMask | FlagReply
	}
	switch {
	case h.Flags&versionMask != Version:
		return fmt.Errorf("%v: protocol version %d, only %d is known", h.Request, h.Flags&versionMask, Version)
	case h.Flags&FlagReply != 0 && !reply:
		return fmt.Errorf("%v: the reply flag is set on a request", h.Request)
	case h.Flags&FlagReply == 0 && reply:
		return fmt.Errorf("%v: a request where a reply was due", h.Request)
	case h.Flags&^allowed != 0:
		return fmt.Errorf("%v: unknown flags %#x", h.Request, h.Flags&^allowed)
	case h.Size > MaxPayload:
		return fmt.Errorf("%v: payload of %d bytes, more than the %d that any message has", h.Request, h.Size, MaxPayload)
	}
	return nil
}

// The payloads. Each parser takes exactly the payload's bytes; the message
// table has checked the length before a handler runs, and the parsers check it
// again because they are exported.

func wantSize(b []byte, n int) error {
	if len(b) != n {
		return fmt.Errorf("payload of %d bytes instead of %d", len(b), n)
	}
	return nil
}

// ParseU64 reads the payload of the messages that carry one number.
func ParseU64(b []byte) (uint64, error) {
	if err := wantSize(b, u64Size); err != nil {
		return 0, err
	}
	return le.Uint64(b), nil
}

// AppendU64 appends a one-number payload to b.
func AppendU64(b []byte, v uint64) []byte { return le.AppendUint64(b, v) }

// VringState is the payload of SET_VRING_NUM, _BASE and _ENABLE and both ways
// of GET_VRING_BASE.
type VringState struct {
	Index uint32 // which ring
	Num   uint32 // its size in descriptors, its next avail index, or 0 and 1
}

// ParseVringState reads a VringState.
func ParseVringState(b []byte) (VringState, error) {
	if err := wantSize(b, vringStateSize); err != nil {
		return VringState{}, err
	}
	return VringState{le.Uint32(b), le.Uint32(b[4:])}, nil
}

// Append appends the wire form to b.
func (v VringState) Append(b []byte) []byte {
	return le.AppendUint32(le.AppendUint32(b, v.Index), v.Num)
}

// VringAddr is the payload of SET_VRING_ADDR, struct vhost_vring_addr of the
// kernel. Desc, Used and Avail are user addresses: the front-end's own view of
// the memory that it shares.
type VringAddr struct {
	Index uint32
	Flags uint32 // VringLog or 0
	Desc  uint64
	Used  uint64
	Avail uint64
	Log   uint64 // guest address under which such writes are logged
}

// VringLog, the only flag of a VringAddr, asks to log writes to the used ring
// (VHOST_VRING_F_LOG).
const VringLog uint32 = 1

// ParseVringAddr reads a VringAddr.
func ParseVringAddr(b []byte) (VringAddr, error) {
	if err := wantSize(b, vringAddrSize); err != nil {
		return VringAddr{}, err
	}
	return VringAddr{
		Index: le.Uint32(b), Flags: le.Uint32(b[4:]),
		Desc: le.Uint64(b[8:]), Used: le.Uint64(b[16:]), Avail: le.Uint64(b[24:]), Log: le.Uint64(b[32:]),
	}, nil
}

// Append appends the wire form to b.
func (v VringAddr) Append(b []byte) []byte {
	b = le.AppendUint32(b, v.Index)
	b = le.AppendUint32(b, v.Flags)
	for _, a := range [...]uint64{v.Desc, v.Used, v.Avail, v.Log} {
		b = le.AppendUint64(b, a)
	}
	return b
}

// VringFile is the payload of SET_VRING_KICK, _CALL and _ERR: a ring, and
// whether a descriptor comes along.
type VringFile struct {
	Index uint8
	NoFD  bool
}

const vringNoFD = 1 << 8

// ParseVringFile reads a VringFile.
func ParseVringFile(b []byte) (VringFile, error) {
	v, err := ParseU64(b)
	if err != nil {
		return VringFile{}, err
	}
	if v >= vringNoFD<<1 {
		return VringFile{}, fmt.Errorf("unknown bits in %#x: bits 0-7 are the ring, bit 8 says that no descriptor comes along", v)
	}
	return VringFile{Index: uint8(v), NoFD: v&vringNoFD != 0}, nil
}

// Append appends the wire form to b.
func (v VringFile) Append(b []byte) []byte {
	u := uint64(v.Index)
	if v.NoFD {
		u |= vringNoFD
	}
	return le.AppendUint64(b, u)
}

// LogArea is the payload of SET_LOG_BASE: where in the file that comes along the
// dirty log lies, in bytes.
type LogArea struct {
	Size, Offset uint64
}

// ParseLogArea reads a LogArea.
func ParseLogArea(b []byte) (LogArea, error) {
	if err := wantSize(b, logSize); err != nil {
		return LogArea{}, err
	}
	return LogArea{le.Uint64(b), le.Uint64(b[8:])}, nil
}

// Append appends the wire form to b.
func (l LogArea) Append(b []byte) []byte {
	return le.AppendUint64(le.AppendUint64(b, l.Size), l.Offset)
}

func parseRegion(b []byte) guestmem.RegionDesc {
	return guestmem.RegionDesc{
		GuestAddr: le.Uint64(b), Size: le.Uint64(b[8:]), UserAddr: le.Uint64(b[16:]), MmapOffset: le.Uint64(b[24:]),
	}
}

func appendRegion(b []byte, d guestmem.RegionDesc) []byte {
	for _, v := range [...]uint64{d.GuestAddr, d.Size, d.UserAddr, d.MmapOffset} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// ParseMemTable reads the payload of SET_MEM_TABLE: 1 to MaxTableRegions
// regions, no more bytes than they take.
func ParseMemTable(b []byte) ([]guestmem.RegionDesc, error) {
	if len(b) < memTableHeadSize {
		return nil, fmt.Errorf("payload of %d bytes, a memory table has at least %d", len(b), memTableHeadSize+regionSize)
	}
	n := le.Uint32(b)
	if n == 0 || n > MaxTableRegions {
		return nil, fmt.Errorf("%d regions, a memory table has 1 to %d", n, MaxTableRegions)
	}
	if err := wantSize(b, memTableHeadSize+int(n)*regionSize); err != nil {
		return nil, fmt.Errorf("%d regions: %w", n, err)
	}
	regions := make([]guestmem.RegionDesc, n)
	for i := range regions {
		regions[i] = parseRegion(b[memTableHeadSize+i*regionSize:])
	}
	return regions, nil
}

// AppendMemTable appends the payload of SET_MEM_TABLE to b.
func AppendMemTable(b []byte, regions []guestmem.RegionDesc) []byte {
	b = le.AppendUint32(b, uint32(len(regions)))
	b = le.AppendUint32(b, 0)
	for _, r := range regions {
		b = appendRegion(b, r)
	}
	return b
}

// ParseMemReg reads the payload of ADD_MEM_REG and REM_MEM_REG.
func ParseMemReg(b []byte) (guestmem.RegionDesc, error) {
	if err := wantSize(b, memRegSize); err != nil {
		return guestmem.RegionDesc{}, err
	}
	return parseRegion(b[8:]), nil
}

// AppendMemReg appends the payload of ADD_MEM_REG and REM_MEM_REG to b.
func AppendMemReg(b []byte, d guestmem.RegionDesc) []byte {
	return appendRegion(le.AppendUint64(b, 0), d)
}

// The flags of a configuration access.
const (
	ConfigWritable  uint32 = 0 // the guest wrote to a writable field
	ConfigMigration uint32 = 1 // the destination of a migration sets the whole space
)

// ConfigAccess is the payload of GET_CONFIG and SET_CONFIG, both ways.
type ConfigAccess struct {
	Offset uint32 // in bytes, from the start of the configuration space
	Flags  uint32 // ConfigWritable or ConfigMigration
	Data   []byte // 1 to MaxConfig bytes; a slice of the payload it was parsed from
}

// ParseConfigAccess reads a ConfigAccess.
func ParseConfigAccess(b []byte) (ConfigAccess, error) {
	if len(b) < configHeadSize {
		return ConfigAccess{}, fmt.Errorf("payload of %d bytes, a configuration access has at least %d", len(b), configHeadSize+1)
	}
	c := ConfigAccess{Offset: le.Uint32(b), Flags: le.Uint32(b[8:]), Data: b[configHeadSize:]}
	size := le.Uint32(b[4:])
	switch {
	case size == 0 || size > MaxConfig:
		return ConfigAccess{}, fmt.Errorf("%d bytes of configuration, an access has 1 to %d", size, MaxConfig)
	case int(size) != len(c.Data):
		return ConfigAccess{}, fmt.Errorf("%d bytes of configuration announced, the payload has %d", size, len(c.Data))
	case c.Flags > ConfigMigration:
		return ConfigAccess{}, fmt.Errorf("unknown configuration flags %#x", c.Flags)
	}
	return c, nil
}

// Append appends the wire form to b.
func (c ConfigAccess) Append(b []byte) []byte {
	b = le.AppendUint32(b, c.Offset)
	b = le.AppendUint32(b, uint32(len(c.Data)))
	b = le.AppendUint32(b, c.Flags)
	return append(b, c.Data...)
}
