package device

import (
	"errors"
	"hash/crc32"
)

// What the next process needs to know of a device to continue its session.

// State implements transport.Device. is tells this disk from one with other properties,
// in bits 32 to 63; the size of an ordinary disk is apart from these, in bits 1 to
// 31 in MiB, because it may grow. choices are what the driver was shown and has chosen
// of the cache mode.
func (d *Device) State() (is, choices uint64) {
	space := d.ConfigSpace()
	if info := d.disk.Info(); info.Zoned == nil {
		clear(space[:capacityBytes])
		is = min(info.CapacitySectors>>11, stateMost>>1) << 1
	}
	return is | uint64(crc32.ChecksumIEEE(space[:]))<<32, d.CacheMode() | choicesKnown
}

const (
	capacityBytes = 8         // at the beginning of the configuration space
	stateMost     = 1<<32 - 1 // bits of State that are not the checksum
	choicesKnown  = 1 << 63   // of choices: there are some
)

// Restore implements transport.Device. An older zvhost has stored what it did, in bit 0 of
// is, which may have been weaker than what the driver was shown: that is not known then.
func (d *Device) Restore(is, choices uint64) error {
	if now, _ := d.State(); is>>32 != now>>32 || is&stateMost>>1 > now&stateMost>>1 {
		return errors.New("the disk is not the one that the guest was shown: its size, zones or limits differ")
	}
	if choices&choicesKnown == 0 {
		d.RememberCacheMode(true)
		d.logUnknownCacheMode()
		return nil
	}
	d.RestoreCacheMode(choices)
	return nil
}
