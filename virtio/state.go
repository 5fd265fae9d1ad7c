package virtio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The part of a device's state that travels when its guest migrates, in addition to what
// the front-end transfers itself: whether the driver may assume that writes are stable,
// because it was shown write-through or has chosen it. The other fields are for checking
// that the disk at the destination is the same one.
//
// All numbers are little-endian, offsets in bytes:
//
//	 0  8  "zvhostDS"
//	 8  4  version, 2
//	12  4  length of all of it, 64
//	16  8  features that the driver has taken, 0 before that
//	24  8  size of the disk in sectors of 512 bytes
//	32  4  logical block size in bytes
//	36  4  zone size in sectors, 0 of a disk without zones
//	40  4  zones
//	44  1  1 when write-through is promised, or may be: see cacheMode
//	45 15  0
//	60  4  CRC-32C of all before it
//
// Byte 44 of version 1 had the mode in effect, which may have been weaker than what the
// driver was shown: it is read as unknown.
const (
	stateMagic      = "zvhostDS"
	stateVersion    = 2
	stateVersionOld = 1
	// StateBytes is the length of a device's state.
	StateBytes = 64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SaveState returns the device's state, StateBytes long. No request may be in
// flight.
func (b *Blk) SaveState() []byte {
	s := b.identity()
	le := binary.LittleEndian
	le.PutUint64(s[16:], b.negotiated.Load())
	if c := &b.cache; c.promised || !c.read && !c.known {
		s[44] = 1
	}
	le.PutUint32(s[60:], crc32.Checksum(s[:60], castagnoli))
	return s
}

// identity is a state with only the fields that identify the device.
func (b *Blk) identity() []byte {
	le := binary.LittleEndian
	s := append(make([]byte, 0, StateBytes), stateMagic...)[:StateBytes]
	le.PutUint32(s[8:], stateVersion)
	le.PutUint32(s[12:], StateBytes)
	le.PutUint64(s[24:], b.capacity.Load())
	le.PutUint32(s[32:], b.info.LogicalBlockSize)
	if z := b.info.Zoned; z != nil {
		le.PutUint32(s[36:], uint32(z.ZoneSectors))
		le.PutUint32(s[40:], uint32(z.Zones))
	}
	return s
}

// LoadState loads a state that another device has saved. It comes over a network, so it is
// not trusted; and a cache mode that is promised here already stays promised. An error is
// one line, and leaves this device unchanged.
func (b *Blk) LoadState(s []byte) error {
	le := binary.LittleEndian
	version := uint32(0)
	if len(s) >= 16 {
		version = le.Uint32(s[8:])
	}
	switch {
	case len(s) < 16 || string(s[:8]) != stateMagic:
		return errors.New("device state: it is none of zvhost's")
	case version != stateVersion && version != stateVersionOld:
		return fmt.Errorf("device state: version %d, only %d and %d are known: the source has another version of zvhost", version, stateVersionOld, stateVersion)
	case len(s) != StateBytes || le.Uint32(s[12:]) != StateBytes:
		return fmt.Errorf("device state: %d bytes instead of %d", len(s), StateBytes)
	case le.Uint32(s[60:]) != crc32.Checksum(s[:60], castagnoli):
		return errors.New("device state: its checksum is wrong: it was damaged on the way")
	case s[44] > 1 || !bytes.Equal(s[45:60], make([]byte, 15)):
		return errors.New("device state: it has values that are not defined")
	}
	if want := b.identity(); !bytes.Equal(s[24:44], want[24:44]) {
		return fmt.Errorf("device state: it is of a disk of %d sectors in blocks of %d bytes, %d zones of %d sectors, but this one has %d sectors in blocks of %d bytes, %d zones of %d sectors: serve the same disk",
			le.Uint64(s[24:]), le.Uint32(s[32:]), le.Uint32(s[40:]), le.Uint32(s[36:]),
			le.Uint64(want[24:]), le.Uint32(want[32:]), le.Uint32(want[40:]), le.Uint32(want[36:]))
	}
	if extra := le.Uint64(s[16:]) &^ b.offered; extra != 0 {
		return fmt.Errorf("device state: its driver has taken features that are not offered here: %s", FeatureString(extra))
	}
	b.RememberCacheMode(s[44] != 0 || version == stateVersionOld)
	return nil
}
