package backend

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A word is one zone in a table of the image: its state and how many of its
// sectors are written, in 64 bits that are always stored at once, so that no
// crash of the daemon can tear it.
//
//	bits 0..43   sectors written, from the zone's start
//	bits 44..47  state, numbered as VIRTIO_BLK_ZS_*
//	bits 48..63  check, a hash of the rest and of the zone number
//
// A finished zone is Full with fewer sectors written than its capacity; what is
// behind them reads as zeroes.
type word uint64

const (
	writtenBits = 44
	stateShift  = writtenBits
	checkShift  = 48
	writtenMask = 1<<writtenBits - 1
)

func pack(i int, s ZoneState, written uint64) word {
	low := written&writtenMask | uint64(s)<<stateShift
	return word(low | uint64(check(i, low))<<checkShift)
}

// check is multiplicative hashing: cheap, without allocation (hash/crc32's
// argument escapes), and any one wrong bit changes about half of it.
func check(i int, low uint64) uint16 {
	h := (low ^ uint64(i+1)*0x9e3779b97f4a7c15) * 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return uint16(h >> 48)
}

func (w word) written() uint64  { return uint64(w) & writtenMask }
func (w word) state() ZoneState { return ZoneState(w >> stateShift & 15) }

// hasData says whether the zone holds sectors that a reset has to make go away.
func (w word) hasData() bool { return w.written() != 0 }

// outlasts says whether a zone with this entry comes back from a power cut as anything
// but empty: a reset has to be durable before the zone takes a new write.
func (w word) outlasts() bool {
	s := w.state()
	return w.hasData() || s == Full || s == ReadOnly || s == Offline
}

// verify says what is wrong with w as the entry of zone i, or nil.
func (w word) verify(g *Geometry, i int) error {
	low := uint64(w) & (1<<checkShift - 1)
	switch s := w.state(); {
	case uint16(w>>checkShift) != check(i, low):
		return fmt.Errorf("check %#04x does not match its contents", uint16(w>>checkShift))
	case !s.valid():
		return fmt.Errorf("%v is no zone state", s)
	case g.conventional(i) && s != NotWP && s != ReadOnly && s != Offline:
		return fmt.Errorf("state %v, but the zone is conventional", s)
	case g.conventional(i) && w.written() != 0:
		return fmt.Errorf("a write pointer, but the zone is conventional")
	case !g.conventional(i) && s == NotWP:
		return fmt.Errorf("state %v, but the zone is sequential", s)
	case w.written() > g.capacity(i):
		return fmt.Errorf("write pointer at sector %d of the zone, above its capacity of %d", w.written(), g.capacity(i))
	case w.written()%(uint64(g.BlockSize)>>SectorShift) != 0:
		return fmt.Errorf("write pointer at sector %d of the zone, not a whole block", w.written())
	case s == Empty && w.written() != 0:
		return fmt.Errorf("state empty, but its write pointer stands at sector %d", w.written())
	}
	return nil
}

// A table block holds the entries of blockZones zones as they were committed,
// with a checksum. Each block stands twice in the image; a commit overwrites
// the older of the two, so that a torn write leaves the one before it.
//
//	0   magic "ZVTB"
//	4   CRC-32C of the block with this field zero
//	8   sequence number, the higher of two valid copies counts
//	16  block number
//	24  reserved, zero
//	32  entries
const (
	blockBytes  = 4096
	blockHeader = 32
	blockZones  = (blockBytes - blockHeader) / 8 // 508
	blockMagic  = "ZVTB"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC-32C of b with the four bytes at off taken as zero.
func checksum(b []byte, off int) uint32 {
	sum := crc32.Update(0, castagnoli, b[:off])
	sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(sum, castagnoli, b[off+4:])
}

func encodeBlock(b []byte, n int, seq uint64, words []word) {
	clear(b)
	copy(b, blockMagic)
	binary.LittleEndian.PutUint64(b[8:], seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(n))
	for i, w := range words {
		binary.LittleEndian.PutUint64(b[blockHeader+8*i:], uint64(w))
	}
	binary.LittleEndian.PutUint32(b[4:], checksum(b, 4))
}

// decodeBlock reads block number n into words. It fails when b is not a whole,
// valid copy of it.
func decodeBlock(b []byte, n int, words []word) (seq uint64, err error) {
	switch {
	case string(b[:4]) != blockMagic:
		return 0, fmt.Errorf("it does not start with %q", blockMagic)
	case binary.LittleEndian.Uint32(b[4:]) != checksum(b, 4):
		return 0, fmt.Errorf("its checksum is wrong")
	case binary.LittleEndian.Uint64(b[16:]) != uint64(n):
		return 0, fmt.Errorf("it says it is block %d", binary.LittleEndian.Uint64(b[16:]))
	}
	for i := range words {
		words[i] = word(binary.LittleEndian.Uint64(b[blockHeader+8*i:]))
	}
	return binary.LittleEndian.Uint64(b[8:]), nil
}
