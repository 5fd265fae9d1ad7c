package virtio

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/zvhost/zvhost/backend/disk"
)

// BlkConfigBytes is the size of the configuration space of a block device
// (struct virtio_blk_config, "Device configuration layout").
const BlkConfigBytes = 96

// Offsets into struct virtio_blk_config, in bytes.
const (
	cfgCapacity          = 0  // le64
	cfgSizeMax           = 8  // le32
	cfgSegMax            = 12 // le32
	cfgBlkSize           = 20 // le32, behind the 4 bytes of geometry
	cfgPhysicalBlockExp  = 24 // u8, then u8 alignment_offset
	cfgMinIOSize         = 26 // le16
	cfgWriteback         = 32 // u8, then u8 unused0
	cfgNumQueues         = 34 // le16
	cfgMaxDiscardSectors = 36 // le32
	cfgMaxDiscardSeg     = 40 // le32
	cfgDiscardAlign      = 44 // le32
	cfgMaxZeroesSectors  = 48 // le32
	cfgMaxZeroesSeg      = 52 // le32
	cfgZeroesMayUnmap    = 56 // u8, then 3 unused
	cfgMaxEraseSectors   = 60 // le32
	cfgMaxEraseSeg       = 64 // le32
	cfgEraseAlign        = 68 // le32
	cfgZoneSectors       = 72 // le32
	cfgMaxOpenZones      = 76 // le32
	cfgMaxActiveZones    = 80 // le32
	cfgMaxAppendSectors  = 84 // le32
	cfgWriteGranularity  = 88 // le32
	cfgZoneModel         = 92 // u8, then 3 unused
	zoneModelHostManaged = 1  // VIRTIO_BLK_Z_HM
)

// configSpace lays out the configuration space. Fields of features that are not offered are
// 0. A zoned disk shows its zones whatever is negotiated: front-ends read the space before
// they pass on the accepted features, and a driver that does not accept ZONED is refused.
func configSpace(i disk.Info, queues int, segMax uint32) (c [BlkConfigBytes]byte) {
	le := binary.LittleEndian
	le.PutUint64(c[cfgCapacity:], i.CapacitySectors)
	le.PutUint32(c[cfgSizeMax:], maxSegmentBytes)
	le.PutUint32(c[cfgSegMax:], segMax)
	le.PutUint32(c[cfgBlkSize:], i.LogicalBlockSize)
	blocks := i.PhysicalBlockSize / i.LogicalBlockSize
	c[cfgPhysicalBlockExp] = uint8(bits.TrailingZeros32(blocks))
	le.PutUint16(c[cfgMinIOSize:], uint16(blocks))
	le.PutUint16(c[cfgNumQueues:], uint16(queues))
	if !i.ReadOnly && i.MaxDiscardSectors != 0 && i.Zoned == nil {
		le.PutUint32(c[cfgMaxDiscardSectors:], i.MaxDiscardSectors)
		le.PutUint32(c[cfgMaxDiscardSeg:], maxRanges)
		granularity := i.DiscardGranularity
		if granularity == 0 {
			granularity = i.PhysicalBlockSize
		}
		le.PutUint32(c[cfgDiscardAlign:], max(granularity, i.LogicalBlockSize)>>disk.SectorShift)
	}
	if !i.ReadOnly && i.MaxWriteZeroesSectors != 0 {
		le.PutUint32(c[cfgMaxZeroesSectors:], i.MaxWriteZeroesSectors)
		le.PutUint32(c[cfgMaxZeroesSeg:], maxRanges)
		c[cfgZeroesMayUnmap] = 1
	}
	if erasable(i) {
		le.PutUint32(c[cfgMaxEraseSectors:], i.MaxEraseSectors)
		le.PutUint32(c[cfgMaxEraseSeg:], maxRanges)
		// "MUST be a multiple of zone_sectors" ("Device Operation").
		le.PutUint32(c[cfgEraseAlign:], uint32(i.Zoned.ZoneSectors))
	}
	if z := i.Zoned; z != nil {
		le.PutUint32(c[cfgZoneSectors:], uint32(z.ZoneSectors))
		le.PutUint32(c[cfgMaxOpenZones:], z.MaxOpen)
		le.PutUint32(c[cfgMaxActiveZones:], z.MaxActive)
		le.PutUint32(c[cfgMaxAppendSectors:], z.MaxAppendSectors)
		le.PutUint32(c[cfgWriteGranularity:], z.WriteGranularity)
		c[cfgZoneModel] = zoneModelHostManaged
	}
	return c
}

// ReadConfig fills dst from the configuration space at off, both in bytes, for the
// front-end to show it to the driver: the cache mode in it is promised from then on (see
// cacheMode). An access outside the space is an error.
func (b *Blk) ReadConfig(dst []byte, off uint32) error {
	if err := configRange("read", len(dst), off); err != nil {
		return err
	}
	space := b.ConfigSpace()
	binary.LittleEndian.PutUint16(space[cfgNumQueues:], uint16(b.shown))
	copy(dst, space[off:])
	if i := cfgWriteback - int(off); i >= 0 && i < len(dst) && b.showWriteback() {
		dst[i] = 1
	}
	return nil
}

// ConfigSpace is the configuration space without what depends on driver and front-end: its
// field writeback is 0, and num_queues is the number of all queues. Reading it promises
// nothing to a driver.
func (b *Blk) ConfigSpace() [BlkConfigBytes]byte {
	space := b.config
	binary.LittleEndian.PutUint64(space[cfgCapacity:], b.capacity.Load())
	return space
}

// WriteConfig writes src to the configuration space at off, both in bytes. Only the field
// writeback can be written, with 0 or 1; all other bytes of src are ignored, as QEMU's
// generic device sends the whole space whatever the guest wrote. 0 is always accepted. 1 is
// accepted once features were negotiated with FLUSH or CONFIG_WCE among them, else it is
// ignored. An access outside the space is an error, and so is another value for writeback
// if the driver may write it; then nothing changes.
//
// A write to the disk that is in flight meanwhile may become volatile or stable ("Device
// Operation").
func (b *Blk) WriteConfig(src []byte, off uint32) error {
	if err := configRange("write", len(src), off); err != nil {
		return err
	}
	i := cfgWriteback - int(off)
	if i < 0 || i >= len(src) {
		return nil
	}
	switch taken := b.set && b.negotiated.Load()&cacheFeatures != 0; {
	case src[i] == 0:
		b.cache.promised, b.cache.fresh = true, false
	case src[i] == 1 && taken:
		b.cache.promised, b.cache.fresh = false, false
		b.cache.read = true // equivalent to a read
	case src[i] > 1 && (!b.set || b.negotiated.Load()&BlkFeatureConfigWCE != 0):
		return fmt.Errorf("configuration field writeback: %d is neither 0 (write-through) nor 1 (write-back)", src[i])
	}
	b.applyCacheMode()
	return nil
}

// SetCapacity changes the field capacity, in sectors, of an ordinary disk once the disk has
// that size; the caller then notifies the driver ("Device configuration layout"). Any
// goroutine may call it.
func (b *Blk) SetCapacity(sectors uint64) { b.capacity.Store(sectors) }

// SetDisk replaces the device's disk by another one that differs at most in its size. No
// request may be in flight.
func (b *Blk) SetDisk(d disk.Disk) {
	b.disk = d
	b.SetCapacity(d.Info().CapacitySectors)
}

func configRange(what string, n int, off uint32) error {
	if uint64(off)+uint64(n) > BlkConfigBytes {
		return fmt.Errorf("configuration %s of %d bytes at %d lies outside the %d bytes of the space", what, n, off, BlkConfigBytes)
	}
	return nil
}
