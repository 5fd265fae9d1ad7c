package pcidriver

import "encoding/binary"

// Access is how a driver reaches the registers of a PCI function.
type Access interface {
	// ReadConfig and WriteConfig access configuration space at byte off.
	ReadConfig(dst []byte, off uint64) error
	WriteConfig(src []byte, off uint64) error
	// ReadBAR and WriteBAR access a BAR, 0 to 5, at byte off.
	ReadBAR(bar int, dst []byte, off uint64) error
	WriteBAR(bar int, src []byte, off uint64) error
}

func read8(read func([]byte, uint64) error, off uint64) (uint8, error) {
	var b [1]byte
	err := read(b[:], off)
	return b[0], err
}

func read16(read func([]byte, uint64) error, off uint64) (uint16, error) {
	var b [2]byte
	err := read(b[:], off)
	return binary.LittleEndian.Uint16(b[:]), err
}

func read32(read func([]byte, uint64) error, off uint64) (uint32, error) {
	var b [4]byte
	err := read(b[:], off)
	return binary.LittleEndian.Uint32(b[:]), err
}

func le16(v uint16) []byte { return binary.LittleEndian.AppendUint16(nil, v) }
func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// A Structure is where a virtio structure is ("Virtio Structure PCI Capabilities").
type Structure struct {
	BAR         int
	Off, Length uint32 // bytes
}

func (d *Device) read(s Structure) func([]byte, uint64) error {
	return func(dst []byte, off uint64) error { return d.access.ReadBAR(s.BAR, dst, uint64(s.Off)+off) }
}

func (d *Device) write(s Structure, src []byte, off uint64) error {
	return d.access.WriteBAR(s.BAR, src, uint64(s.Off)+off)
}

// window accesses BARs through the PCI configuration access capability at cap.
type window struct {
	Access
	cap uint64
}

// ThroughConfig returns an access to the device that reaches its BARs through configuration space
// only, as firmware does.
func (d *Device) ThroughConfig() Access { return window{d.access, d.windowCap} }

// aim points the window at n bytes of a BAR.
func (w window) aim(bar int, off uint64, n int) error {
	for _, s := range []struct {
		b  []byte
		at uint64
	}{{[]byte{byte(bar)}, 4}, {le32(uint32(off)), 8}, {le32(uint32(n)), 12}} {
		if err := w.WriteConfig(s.b, w.cap+s.at); err != nil {
			return err
		}
	}
	return nil
}

// each calls f for the pieces of an access that the window can make: aligned, of 1, 2 or 4 bytes.
func each(p []byte, off uint64, f func(p []byte, off uint64) error) error {
	for len(p) > 0 {
		n := 4
		for n > len(p) || off%uint64(n) != 0 {
			n /= 2
		}
		if err := f(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+uint64(n)
	}
	return nil
}

func (w window) ReadBAR(bar int, dst []byte, off uint64) error {
	return each(dst, off, func(p []byte, off uint64) error {
		if err := w.aim(bar, off, len(p)); err != nil {
			return err
		}
		return w.ReadConfig(p, w.cap+16)
	})
}

func (w window) WriteBAR(bar int, src []byte, off uint64) error {
	return each(src, off, func(p []byte, off uint64) error {
		if err := w.aim(bar, off, len(p)); err != nil {
			return err
		}
		return w.WriteConfig(p, w.cap+16)
	})
}
