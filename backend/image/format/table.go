package format

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// A table block holds the entries of BlockZones zones as they were committed,
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
	BlockBytes  = 4096
	BlockHeader = 32
	BlockZones  = (BlockBytes - BlockHeader) / 8 // 508
	blockMagic  = "ZVTB"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C of b with the four bytes at off taken as zero.
func Checksum(b []byte, off int) uint32 {
	sum := crc32.Update(0, castagnoli, b[:off])
	sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(sum, castagnoli, b[off+4:])
}

// EncodeBlock makes b block n of the committed table, with this sequence number.
func EncodeBlock(b []byte, n int, seq uint64, words []zone.Entry) {
	clear(b)
	copy(b, blockMagic)
	binary.LittleEndian.PutUint64(b[8:], seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(n))
	for i, w := range words {
		binary.LittleEndian.PutUint64(b[BlockHeader+8*i:], uint64(w))
	}
	binary.LittleEndian.PutUint32(b[4:], Checksum(b, 4))
}

// DecodeBlock reads block number n into words. It fails when b is not a whole,
// valid copy of it.
func DecodeBlock(b []byte, n int, words []zone.Entry) (seq uint64, err error) {
	switch {
	case string(b[:4]) != blockMagic:
		return 0, fmt.Errorf("it does not start with %q", blockMagic)
	case binary.LittleEndian.Uint32(b[4:]) != Checksum(b, 4):
		return 0, fmt.Errorf("its checksum is wrong")
	case binary.LittleEndian.Uint64(b[16:]) != uint64(n):
		return 0, fmt.Errorf("it says it is block %d", binary.LittleEndian.Uint64(b[16:]))
	}
	for i := range words {
		words[i] = zone.Entry(binary.LittleEndian.Uint64(b[BlockHeader+8*i:]))
	}
	return binary.LittleEndian.Uint64(b[8:]), nil
}

// ReadLive reads the live table. The entries are not checked.
func ReadLive(f *os.File, l *Layout) ([]zone.Entry, error) {
	b := make([]byte, 8*l.Zones())
	if _, err := f.ReadAt(b, LiveOff); err != nil {
		return nil, fmt.Errorf("read the zone table: %w", err)
	}
	words := make([]zone.Entry, l.Zones())
	for i := range words {
		words[i] = zone.Entry(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return words, nil
}

// ReadCommitted reads the newer valid copy of each block of the committed
// table. A damaged copy is a finding, two damaged copies of one block an error.
func ReadCommitted(f *os.File, l *Layout) (words []zone.Entry, seqs []uint64, findings []Finding, err error) {
	words, seqs = make([]zone.Entry, l.Zones()), make([]uint64, l.Blocks())
	for n := range seqs {
		part := words[n*BlockZones : min((n+1)*BlockZones, len(words))]
		var damaged [2]error
		if seqs[n], damaged, err = ReadBlock(f, l, n, part); err != nil {
			return nil, nil, nil, err
		}
		for c, err := range damaged {
			if err != nil {
				findings = append(findings, Finding{Where: CopyName(n, c), What: err.Error()})
			}
		}
		if seqs[n] == 0 {
			return nil, nil, findings, disk.Damagedf("both copies of block %d of the committed zone table are damaged; run 'zvhost check'", n)
		}
		for i, w := range part {
			if err := w.Verify(&l.Geometry, n*BlockZones+i); err != nil {
				return nil, nil, findings, disk.Damagedf("committed zone table entry %d: %w; run 'zvhost check'", n*BlockZones+i, err)
			}
		}
	}
	return words, seqs, findings, nil
}

// CopyName names copy c of block n of the committed table.
func CopyName(n, c int) string {
	return fmt.Sprintf("committed zone table, block %d, copy %d", n, c)
}

// ReadBlock reads the newer valid copy of block n of the committed table into
// words. damaged says what is wrong with each of the copies; if both are
// damaged seq is 0.
func ReadBlock(f *os.File, l *Layout, n int, words []zone.Entry) (seq uint64, damaged [2]error, err error) {
	var b [2 * BlockBytes]byte
	if _, err := f.ReadAt(b[:], l.TableOff+int64(n)*int64(len(b))); err != nil {
		return 0, damaged, fmt.Errorf("read the committed zone table: %w", err)
	}
	var entries [BlockZones]zone.Entry
	for c := range damaged {
		is, err := DecodeBlock(b[c*BlockBytes:][:BlockBytes], n, entries[:len(words)])
		if err == nil {
			err = checkSeq(is, c == 1)
		}
		if damaged[c] = err; err == nil && is > seq {
			seq = is
			copy(words, entries[:])
		}
	}
	return seq, damaged, nil
}
