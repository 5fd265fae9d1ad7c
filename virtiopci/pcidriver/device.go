package pcidriver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/zvhost/zvhost/virtio/driver"
)

// NoVector maps an event to no interrupt.
const NoVector = 0xffff

// Device status bits.
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128
)

// Feature bits of the transport that this driver can use. NOTIFICATION_DATA is not among them.
const (
	FeatureNotifConfigData uint64 = 1 << 39
	FeatureRingReset       uint64 = 1 << 40
)

var (
	// ErrFeatures is a device that does not accept the features.
	ErrFeatures = errors.New("the device does not accept these features")
	// ErrVector is a vector that an event cannot be mapped to.
	ErrVector = errors.New("the interrupt vector cannot be mapped")
	// ErrNoReset is a device whose reset does not end.
	ErrNoReset = errors.New("the device does not end its reset")
)

// resetLimit is how long a reset may take.
const resetLimit = 30 * time.Second

// A notifier is how a queue is notified.
type notifier struct {
	bar   int
	off   uint64
	value []byte
}

// Status reads the device status.
func (d *Device) Status() (uint8, error) { return read8(d.read(d.Common), 20) }

// SetStatus writes the device status.
func (d *Device) SetStatus(v uint8) error { return d.write(d.Common, []byte{v}, 20) }

// addStatus sets bits of the device status.
func (d *Device) addStatus(v uint8) error {
	s, err := d.Status()
	if err != nil {
		return err
	}
	return d.SetStatus(s | v)
}

// Reset resets the device, and waits until it says that this is done.
func (d *Device) Reset() error {
	if err := d.SetStatus(0); err != nil {
		return err
	}
	d.Features = 0
	clear(d.notify)
	return await(func() (bool, error) {
		s, err := d.Status()
		return s == 0, err
	})
}

// await waits until done, up to resetLimit.
func await(done func() (bool, error)) error {
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Since(begin) > resetLimit {
			return fmt.Errorf("%w in %v", ErrNoReset, resetLimit)
		}
	}
}

// Offered reads the 64 feature bits that the device offers.
func (d *Device) Offered() (uint64, error) { return d.features(0, 4) }

// features reads the features behind the select register at sel.
func (d *Device) features(sel, at uint64) (f uint64, err error) {
	for i := range uint32(2) {
		if err := d.write(d.Common, le32(i), sel); err != nil {
			return 0, err
		}
		v, err := read32(d.read(d.Common), at)
		if err != nil {
			return 0, err
		}
		f |= uint64(v) << (32 * i)
	}
	return f, nil
}

// Negotiate is steps 2 to 6 of "Device Initialization": the driver accepts features. It fails with
// ErrFeatures if the device does not.
func (d *Device) Negotiate(features uint64) error {
	for _, s := range []uint8{StatusAcknowledge, StatusDriver} {
		if err := d.addStatus(s); err != nil {
			return err
		}
	}
	for i := range uint32(2) {
		if err := d.write(d.Common, le32(i), 8); err != nil {
			return err
		}
		if err := d.write(d.Common, le32(uint32(features>>(32*i))), 12); err != nil {
			return err
		}
	}
	if err := d.addStatus(StatusFeaturesOK); err != nil {
		return err
	}
	s, err := d.Status()
	if err != nil {
		return err
	}
	if s&StatusFeaturesOK == 0 {
		return fmt.Errorf("%w: %#x", ErrFeatures, features)
	}
	d.Features = features
	return nil
}

// Start sets DRIVER_OK. It fails if the device needs a reset then: a queue could not be started.
func (d *Device) Start() error {
	if err := d.addStatus(StatusDriverOK); err != nil {
		return err
	}
	s, err := d.Status()
	if err == nil && s&(StatusDriverOK|StatusNeedsReset) != StatusDriverOK {
		err = fmt.Errorf("the device does not start: status %#x", s)
	}
	return err
}

// Queues reads how many queues the device has.
func (d *Device) Queues() (int, error) {
	n, err := read16(d.read(d.Common), 18)
	return int(n), err
}

// selectQueue selects queue i for the registers from 24 on.
func (d *Device) selectQueue(i int) error { return d.write(d.Common, le16(uint16(i)), 22) }

// QueueSize reads the size of queue i: at first the largest one that is possible, 0 if there is no
// such queue.
func (d *Device) QueueSize(i int) (uint16, error) {
	if err := d.selectQueue(i); err != nil {
		return 0, err
	}
	return read16(d.read(d.Common), 24)
}

// SetUpQueue sets queue i up and enables it ("Virtqueue Configuration"). Before DRIVER_OK it does
// not run yet.
func (d *Device) SetUpQueue(i int, l driver.Layout, vector uint16) error {
	largest, err := d.QueueSize(i)
	if err != nil {
		return err
	}
	if largest < l.Size {
		return fmt.Errorf("queue %d has at most %d descriptors, %d are too many", i, largest, l.Size)
	}
	if err := d.write(d.Common, le16(l.Size), 24); err != nil {
		return err
	}
	if err := d.SetVector(i, vector); err != nil {
		return err
	}
	for j, addr := range []uint64{l.Desc, l.Avail, l.Used} {
		at := uint64(32 + 8*j)
		if err := d.write(d.Common, le32(uint32(addr)), at); err != nil {
			return err
		}
		if err := d.write(d.Common, le32(uint32(addr>>32)), at+4); err != nil {
			return err
		}
	}
	if err := d.findNotifier(i); err != nil {
		return err
	}
	return d.write(d.Common, le16(1), 28)
}

// findNotifier finds out how queue i, which is selected, is notified ("Available Buffer
// Notifications").
func (d *Device) findNotifier(i int) error {
	off, err := read16(d.read(d.Common), 30)
	if err != nil {
		return err
	}
	value := uint16(i)
	if d.Features&FeatureNotifConfigData != 0 {
		if value, err = read16(d.read(d.Common), 56); err != nil {
			return err
		}
	}
	n := notifier{d.NotifyArea.BAR, uint64(off) * uint64(d.NotifyMultiplier), le16(value)}
	if n.off+uint64(len(n.value)) > uint64(d.NotifyArea.Length) {
		return fmt.Errorf("the notification register of queue %d is at %d of %d bytes", i, n.off, d.NotifyArea.Length)
	}
	n.off += uint64(d.NotifyArea.Off)
	d.notify[i] = n
	return nil
}

// Notify tells the device that queue i has available buffers.
func (d *Device) Notify(i int) error {
	n, ok := d.notify[i]
	if !ok {
		return fmt.Errorf("queue %d is not set up", i)
	}
	return d.access.WriteBAR(n.bar, n.value, n.off)
}

// SetVector maps queue i to an MSI-X vector, or to NoVector.
func (d *Device) SetVector(i int, vector uint16) error {
	if err := d.selectQueue(i); err != nil {
		return err
	}
	return d.mapVector(26, vector)
}

// SetConfigVector maps configuration changes to an MSI-X vector, or to NoVector.
func (d *Device) SetConfigVector(vector uint16) error { return d.mapVector(16, vector) }

// mapVector writes the vector register at byte at. It fails with ErrVector if the device cannot
// map the event.
func (d *Device) mapVector(at uint64, vector uint16) error {
	if err := d.write(d.Common, le16(vector), at); err != nil {
		return err
	}
	got, err := read16(d.read(d.Common), at)
	if err == nil && got != vector {
		err = fmt.Errorf("%w: %d", ErrVector, vector)
	}
	return err
}

// ResetQueue resets queue i, and waits until that is done. It needs RING_RESET.
func (d *Device) ResetQueue(i int) error {
	if err := d.selectQueue(i); err != nil {
		return err
	}
	if err := d.write(d.Common, le16(1), 58); err != nil {
		return err
	}
	delete(d.notify, i)
	return await(func() (bool, error) {
		v, err := read16(d.read(d.Common), 58)
		return v == 0, err
	})
}

// ReadISR reads ISR status, which clears it: bit 0 is a queue, bit 1 a configuration change.
func (d *Device) ReadISR() (uint8, error) { return read8(d.read(d.ISR), 0) }

// Generation reads the configuration generation.
func (d *Device) Generation() (uint8, error) { return read8(d.read(d.Common), 21) }

// ReadDeviceConfig reads the device configuration at byte off, until it has not changed meanwhile.
func (d *Device) ReadDeviceConfig(dst []byte, off uint64) error {
	for range 100 {
		before, err := d.Generation()
		if err != nil {
			return err
		}
		// Fields may have any width, so the driver reads what is aligned for all.
		err = each(dst, off, d.read(d.Config))
		if err != nil {
			return err
		}
		after, err := d.Generation()
		if err != nil {
			return err
		}
		if before == after {
			return nil
		}
	}
	return errors.New("the device configuration changes again and again")
}

// WriteDeviceConfig writes one field of the device configuration.
func (d *Device) WriteDeviceConfig(src []byte, off uint64) error { return d.write(d.Config, src, off) }

// QueueLayout reads back how queue i is set up, and whether it is enabled, for tests.
func (d *Device) QueueLayout(i int) (l driver.Layout, enabled bool, err error) {
	if l.Size, err = d.QueueSize(i); err != nil {
		return l, false, err
	}
	var b [24]byte
	if err := each(b[:], 32, d.read(d.Common)); err != nil {
		return l, false, err
	}
	l.Desc, l.Avail, l.Used = binary.LittleEndian.Uint64(b[0:]), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	on, err := read16(d.read(d.Common), 28)
	return l, on == 1, err
}
