package pcidriver

import (
	"errors"
	"fmt"
)

// A Device is a virtio device that Probe has found. After SetUpQueue a queue can be notified.
type Device struct {
	Type    uint16 // virtio device ID: 2 is a block device
	Vectors int    // MSI-X vectors; 0: there is no MSI-X
	// Where the structures are. A device without a configuration space has a Config of length 0.
	Common, ISR, Config, NotifyArea Structure
	NotifyMultiplier                uint32
	Features                        uint64 // accepted by Negotiate

	access    Access
	msixCap   uint64
	windowCap uint64
	notify    map[int]notifier
}

// ErrNotVirtio is a PCI function that is not a virtio 1.x device.
var ErrNotVirtio = errors.New("not a virtio 1.x PCI device")

// Probe looks for a virtio device in configuration space ("Virtio Device Configuration Layout
// Detection"). Of each type of structure it takes the first one.
func Probe(a Access) (*Device, error) {
	d := &Device{access: a, notify: make(map[int]notifier)}
	vendor, err := read16(a.ReadConfig, 0)
	if err != nil {
		return nil, err
	}
	id, err := read16(a.ReadConfig, 2)
	if err != nil {
		return nil, err
	}
	if vendor != 0x1af4 || id < 0x1040 || id > 0x107f {
		return nil, fmt.Errorf("%w: vendor %#04x, device %#04x", ErrNotVirtio, vendor, id)
	}
	d.Type = id - 0x1040
	status, err := read16(a.ReadConfig, 6)
	if err != nil {
		return nil, err
	}
	if status&(1<<4) == 0 {
		return nil, fmt.Errorf("%w: no capability list", ErrNotVirtio)
	}
	found := map[uint8]bool{}
	at, err := read8(a.ReadConfig, 0x34)
	for range 48 { // as many capabilities as there can be: the list may have a loop
		if err != nil || at == 0 {
			break
		}
		if err := d.capability(uint64(at&^3), found); err != nil {
			return nil, err
		}
		at, err = read8(a.ReadConfig, uint64(at&^3)+1)
	}
	if err != nil {
		return nil, err
	}
	for kind := range uint8(6) {
		if kind != 0 && kind != 4 && !found[kind] {
			return nil, fmt.Errorf("%w: no capability of type %d", ErrNotVirtio, kind)
		}
	}
	return d, nil
}

// capability reads the capability at byte at.
func (d *Device) capability(at uint64, found map[uint8]bool) error {
	var head [16]byte
	if err := d.access.ReadConfig(head[:4], at); err != nil {
		return err
	}
	switch {
	case head[0] == 0x11:
		d.msixCap = at
		control, err := read16(d.access.ReadConfig, at+2)
		d.Vectors = int(control&0x7ff) + 1
		return err
	case head[0] != 0x09 || head[3] < 1 || head[3] > 5 || found[head[3]]:
		return nil
	}
	if err := d.access.ReadConfig(head[:], at); err != nil {
		return err
	}
	if head[3] == 5 {
		d.windowCap, found[5] = at, true
		return nil
	}
	off, err := read32(d.access.ReadConfig, at+8)
	if err != nil {
		return err
	}
	length, err := read32(d.access.ReadConfig, at+12)
	if err != nil {
		return err
	}
	s := Structure{int(head[4]), off, length}
	if s.BAR > 5 {
		return nil // reserved: to be ignored
	}
	where, least := map[uint8]*Structure{1: &d.Common, 2: &d.NotifyArea, 3: &d.ISR, 4: &d.Config}[head[3]], [...]uint32{1: 56, 2: 2, 3: 1, 4: 1}[head[3]]
	if s.Length < least {
		return fmt.Errorf("structure %d has %d bytes, %d are the least", head[3], s.Length, least)
	}
	*where, found[head[3]] = s, true
	if head[3] == 2 {
		d.NotifyMultiplier, err = read32(d.access.ReadConfig, at+16)
	}
	return err
}

// EnableMSIX enables or disables MSI-X.
func (d *Device) EnableMSIX(on bool) error {
	if d.Vectors == 0 {
		return errors.New("the device has no MSI-X")
	}
	v, err := read16(d.access.ReadConfig, d.msixCap+2)
	if err != nil {
		return err
	}
	v &^= 1 << 15
	if on {
		v |= 1 << 15
	}
	return d.access.WriteConfig(le16(v), d.msixCap+2)
}

// BARBytes finds the size of a 32-bit memory BAR, 0 if it does not exist, and leaves its address as
// it was.
func (d *Device) BARBytes(bar int) (uint64, error) {
	at := uint64(0x10 + 4*bar)
	before, err := read32(d.access.ReadConfig, at)
	if err != nil {
		return 0, err
	}
	if err := d.access.WriteConfig(le32(0xffffffff), at); err != nil {
		return 0, err
	}
	mask, err := read32(d.access.ReadConfig, at)
	if err != nil || mask == 0 {
		return 0, err
	}
	return uint64(^(mask &^ 15)) + 1, d.access.WriteConfig(le32(before), at)
}
