package virtio

import (
	"fmt"
	"math/bits"
	"strings"
)

// Feature bits that are not about one type of device ("Reserved Feature Bits").
const (
	FeatureIndirectDesc uint64 = 1 << 28
	FeatureEventIdx     uint64 = 1 << 29
	FeatureVersion1     uint64 = 1 << 32
	FeatureRingPacked   uint64 = 1 << 34
)

// Feature bits of the block device ("Block Device / Feature bits").
const (
	BlkFeatureSizeMax     uint64 = 1 << 1
	BlkFeatureSegMax      uint64 = 1 << 2
	BlkFeatureGeometry    uint64 = 1 << 4
	BlkFeatureRO          uint64 = 1 << 5
	BlkFeatureBlkSize     uint64 = 1 << 6
	BlkFeatureFlush       uint64 = 1 << 9
	BlkFeatureTopology    uint64 = 1 << 10
	BlkFeatureConfigWCE   uint64 = 1 << 11
	BlkFeatureMQ          uint64 = 1 << 12
	BlkFeatureDiscard     uint64 = 1 << 13
	BlkFeatureWriteZeroes uint64 = 1 << 14
	BlkFeatureLifetime    uint64 = 1 << 15
	BlkFeatureSecureErase uint64 = 1 << 16
	BlkFeatureZoned       uint64 = 1 << 17
)

var featureNames = map[uint64]string{
	FeatureIndirectDesc:   "INDIRECT_DESC",
	FeatureEventIdx:       "EVENT_IDX",
	FeatureVersion1:       "VERSION_1",
	FeatureRingPacked:     "RING_PACKED",
	BlkFeatureSizeMax:     "SIZE_MAX",
	BlkFeatureSegMax:      "SEG_MAX",
	BlkFeatureGeometry:    "GEOMETRY",
	BlkFeatureRO:          "RO",
	BlkFeatureBlkSize:     "BLK_SIZE",
	BlkFeatureFlush:       "FLUSH",
	BlkFeatureTopology:    "TOPOLOGY",
	BlkFeatureConfigWCE:   "CONFIG_WCE",
	BlkFeatureMQ:          "MQ",
	BlkFeatureDiscard:     "DISCARD",
	BlkFeatureWriteZeroes: "WRITE_ZEROES",
	BlkFeatureLifetime:    "LIFETIME",
	BlkFeatureSecureErase: "SECURE_ERASE",
	BlkFeatureZoned:       "ZONED",
}

// FeatureString names the bits of a feature set, for log lines: "FLUSH|ZONED",
// with "bit 40" for one that has no name here.
func FeatureString(f uint64) string {
	if f == 0 {
		return "none"
	}
	var names []string
	for ; f != 0; f &= f - 1 {
		low := f & -f
		name, ok := featureNames[low]
		if !ok {
			name = fmt.Sprintf("bit %d", bits.TrailingZeros64(low))
		}
		names = append(names, name)
	}
	return strings.Join(names, "|")
}

// FeatureString is the function FeatureString, for callers that have a Blk and do not
// import this package.
func (*Blk) FeatureString(f uint64) string { return FeatureString(f) }

// An unfitDriver is one that cannot drive a zoned disk.
type unfitDriver struct{ what, remedy string }

func (e *unfitDriver) Error() string {
	return "the disk is zoned (host-managed), but " + e.what + ": " + e.remedy
}

// Short is a brief text for a driver that the user cannot change, such as a firmware's.
func (e *unfitDriver) Short() string { return e.what }
