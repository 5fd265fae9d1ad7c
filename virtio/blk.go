package virtio

import (
	"fmt"
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/zvhost/zvhost/backend/disk"
)

// BlkOptions are the options of a block device.
type BlkOptions struct {
	// Queues is the number of virtqueues, 1 to 65535.
	Queues int
	// QueueSize is the number of entries that the front-end's rings are expected to have: a
	// power of two, 4 to 32768; 0 means 128, QEMU's default. It bounds seg_max, since a
	// request must fit a ring if indirect descriptors are not negotiated.
	QueueSize uint16
	// SplitRings: do not offer RING_PACKED.
	SplitRings bool
	// Serial is what GET_ID answers: at most 20 bytes of printable ASCII.
	Serial string
}

const (
	serialBytes      = 20      // VIRTIO_BLK_ID_BYTES
	defaultQueueSize = 128     // entries
	maxSegmentBytes  = 4 << 20 // size_max
	maxRanges        = 32      // segments of one DISCARD, WRITE_ZEROES or SECURE_ERASE
)

// A Blk is the part of a virtio block device that all its queues share: its
// features, its configuration space and the meaning of its requests.
//
// SetFeatures, ReadConfig, WriteConfig and Reset belong to the session's
// goroutine. Decode may be called by any number of workers at the same time.
type Blk struct {
	disk    disk.Disk
	info    disk.Info
	offered uint64
	serial  [serialBytes]byte
	config  [BlkConfigBytes]byte // without the byte writeback, and capacity
	queues  int
	shown   int    // of these, in the configuration space as the front-end reads it
	segMax  uint32 // segments of data

	// capacity is the disk's size in sectors as the driver sees it.
	capacity atomic.Uint64
	// negotiated are the features that the driver has accepted, zero before that.
	negotiated atomic.Uint64
	// set: SetFeatures has succeeded since the last Reset.
	set   bool
	cache cacheMode
}

// NewBlk makes a block device of a disk. It refuses options out of range, and a
// disk whose geometry the configuration space cannot express.
func NewBlk(dk disk.Disk, o BlkOptions) (*Blk, error) {
	if o.QueueSize == 0 {
		o.QueueSize = defaultQueueSize
	}
	switch {
	case o.Queues < 1 || o.Queues > math.MaxUint16:
		return nil, fmt.Errorf("%d queues: must be 1 to %d", o.Queues, math.MaxUint16)
	case o.QueueSize < 4 || o.QueueSize > 32768 || bits.OnesCount16(o.QueueSize) != 1:
		return nil, fmt.Errorf("queue size %d: must be a power of two from 4 to 32768", o.QueueSize)
	case len(o.Serial) > serialBytes:
		return nil, fmt.Errorf("serial %q is %d bytes long: at most %d", o.Serial, len(o.Serial), serialBytes)
	}
	for _, c := range []byte(o.Serial) {
		if c < ' ' || c > '~' {
			return nil, fmt.Errorf("serial %q: only printable ASCII characters", o.Serial)
		}
	}
	b := &Blk{disk: dk, info: dk.Info(), queues: o.Queues}
	copy(b.serial[:], o.Serial)
	segMax := uint32(min(o.QueueSize, MaxChain)) - 2 // header and status
	if err := checkInfo(b.info, segMax); err != nil {
		return nil, err
	}
	if b.offered = offer(b.info); o.SplitRings {
		b.offered &^= FeatureRingPacked
	}
	b.config, b.segMax = configSpace(b.info, o.Queues, segMax), segMax
	b.capacity.Store(b.info.CapacitySectors)
	b.BeginFrontEnd()
	return b, nil
}

// checkInfo returns what the device model cannot express about a disk.
func checkInfo(i disk.Info, segMax uint32) error {
	switch l, p := i.LogicalBlockSize, i.PhysicalBlockSize; {
	case l < disk.SectorSize || bits.OnesCount32(l) != 1:
		return fmt.Errorf("logical block size %d: must be a power of two of at least 512 bytes", l)
	case p < l || bits.OnesCount32(p) != 1 || p/l > math.MaxUint16:
		return fmt.Errorf("physical block size %d: must be a power of two of at least the logical block size, %d, and less than 65536 times that", p, l)
	}
	z := i.Zoned
	if z == nil {
		return nil
	}
	// Linux refuses more than the specification does (virtblk_probe_zoned_device
	// in drivers/block/virtio_blk.c), so a disk must satisfy both.
	switch {
	case z.ZoneSectors == 0 || z.ZoneSectors > math.MaxUint32 || bits.OnesCount64(z.ZoneSectors) != 1:
		return fmt.Errorf("zone size %d sectors: must be a power of two of at most 2^31", z.ZoneSectors)
	case z.Zones < 1 || uint64(z.Zones) != (i.CapacitySectors+z.ZoneSectors-1)/z.ZoneSectors:
		return fmt.Errorf("%d zones of %d sectors do not make a disk of %d sectors", z.Zones, z.ZoneSectors, i.CapacitySectors)
	case z.WriteGranularity < disk.SectorSize || bits.OnesCount32(z.WriteGranularity) != 1:
		return fmt.Errorf("write granularity %d: must be a power of two of at least 512 bytes", z.WriteGranularity)
	case uint64(z.MaxAppendSectors)<<disk.SectorShift < uint64(z.WriteGranularity):
		return fmt.Errorf("append limit %d sectors: must be at least the write granularity, %d bytes", z.MaxAppendSectors, z.WriteGranularity)
	case uint64(z.MaxAppendSectors)<<disk.SectorShift > uint64(segMax)*maxSegmentBytes:
		return fmt.Errorf("append limit %d sectors: must not exceed %d segments of %d bytes; use larger queues or a lower limit", z.MaxAppendSectors, segMax, maxSegmentBytes)
	}
	return nil
}

// offer lists the features of a device with such a disk ("Feature bits").
func offer(i disk.Info) uint64 {
	f := FeatureVersion1 | FeatureRingPacked | FeatureIndirectDesc | FeatureEventIdx |
		BlkFeatureSizeMax | BlkFeatureSegMax | BlkFeatureBlkSize | BlkFeatureTopology |
		BlkFeatureFlush | BlkFeatureConfigWCE | BlkFeatureMQ
	if i.Zoned != nil {
		f |= BlkFeatureZoned
	}
	if i.ReadOnly {
		return f | BlkFeatureRO
	}
	// "If the VIRTIO_BLK_F_ZONED feature is offered by the device with the
	// VIRTIO_BLK_Z_HM zone model, then the VIRTIO_BLK_F_DISCARD feature MUST NOT
	// be offered."
	if i.MaxDiscardSectors != 0 && i.Zoned == nil {
		f |= BlkFeatureDiscard
	}
	if i.MaxWriteZeroesSectors != 0 {
		f |= BlkFeatureWriteZeroes
	}
	if erasable(i) {
		f |= BlkFeatureSecureErase
	}
	return f
}

// erasable reports whether a disk is offered with SECURE_ERASE: if it is zoned, since the
// specification defines that for zones. For an ordinary disk it could not be promised.
func erasable(i disk.Info) bool {
	return i.Zoned != nil && !i.ReadOnly && i.MaxEraseSectors != 0
}

// Features are the feature bits that the device offers.
func (b *Blk) Features() uint64 { return b.offered }

// Queues is the number of virtqueues.
func (b *Blk) Queues() int { return b.queues }

// BeginFrontEnd is called when another front-end, of which nothing is known, uses the
// device.
func (b *Blk) BeginFrontEnd() {
	b.cache.fresh, b.cache.read, b.cache.known = true, false, false
	b.shown = b.queues
}

// ShowQueues sets the number of virtqueues in the configuration space, 1 to Queues.
func (b *Blk) ShowQueues(n int) { b.shown = n }

// SetFeatures sets what the driver acknowledged, a subset of Features. After an error
// nothing is negotiated, whatever was before: no zoned request is known then, and a zoned
// disk does no I/O at all. The error is one line, for the person who attached the disk. No
// request may be in flight.
func (b *Blk) SetFeatures(acked uint64) error {
	if err := b.checkFeatures(acked); err != nil {
		b.Reset()
		return err
	}
	b.negotiateCacheMode(acked)
	b.negotiated.Store(acked)
	b.set = true
	b.applyCacheMode()
	return nil
}

// checkFeatures returns why the device refuses what the driver acknowledged.
func (b *Blk) checkFeatures(acked uint64) error {
	if extra := acked &^ b.offered; extra != 0 {
		return fmt.Errorf("the front-end acknowledged features that were not offered: %s", FeatureString(extra))
	}
	if b.info.Zoned != nil {
		// "the device with the VIRTIO_BLK_Z_HM zone model MUST fail to set the
		// FEATURES_OK device status bit" ("Device Initialization").
		if acked&BlkFeatureZoned == 0 {
			return &unfitDriver{
				"the front-end or its guest does not take VIRTIO_BLK_F_ZONED (bit 17)",
				"attach it with QEMU's vhost-user-test-device-pci (10.2 or newer) or vfio-user-pci (zvhost serve --vfio-user), crosvm or libkrun, and a guest kernel of 6.3 or newer with CONFIG_BLK_DEV_ZONED; " +
					"QEMU's vhost-user-blk-pci, cloud-hypervisor and Firecracker hide the feature",
			}
		}
		// "Legacy devices MUST NOT offer VIRTIO_BLK_F_ZONED."
		if acked&FeatureVersion1 == 0 {
			return &unfitDriver{"the front-end's guest uses the legacy interface, which has no zones", "it must take VIRTIO_F_VERSION_1 (bit 32)"}
		}
	}
	return nil
}

// Reset restores the state before the driver started: nothing is negotiated. The cache mode
// that the driver was shown stays promised, since a front-end may show it to the next
// driver without asking (see cacheMode). No request may be in flight.
func (b *Blk) Reset() {
	b.negotiated.Store(0)
	b.set = false
	b.applyCacheMode()
}
