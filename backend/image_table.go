package backend

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/zvhost/zvhost/backend/zone"
)

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

func encodeBlock(b []byte, n int, seq uint64, words []zone.Entry) {
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
func decodeBlock(b []byte, n int, words []zone.Entry) (seq uint64, err error) {
	switch {
	case string(b[:4]) != blockMagic:
		return 0, fmt.Errorf("it does not start with %q", blockMagic)
	case binary.LittleEndian.Uint32(b[4:]) != checksum(b, 4):
		return 0, fmt.Errorf("its checksum is wrong")
	case binary.LittleEndian.Uint64(b[16:]) != uint64(n):
		return 0, fmt.Errorf("it says it is block %d", binary.LittleEndian.Uint64(b[16:]))
	}
	for i := range words {
		words[i] = zone.Entry(binary.LittleEndian.Uint64(b[blockHeader+8*i:]))
	}
	return binary.LittleEndian.Uint64(b[8:]), nil
}
