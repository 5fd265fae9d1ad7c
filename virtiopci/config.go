package virtiopci

import "encoding/binary"

// ConfigBytes is the size of the configuration space that ReadConfig and WriteConfig know: that of
// a PCI Express function. What follows the first 256 bytes reads as 0: no extended capability.
const ConfigBytes = 4096

const (
	configBytes  = 256
	vendorID     = 0x1af4
	deviceIDBase = 0x1040
	revisionID   = 1
)

// Registers of the type 0 header (PCI, "Configuration Space Organization").
const (
	regVendor        = 0x00
	regDevice        = 0x02
	regCommand       = 0x04
	regStatus        = 0x06
	regRevision      = 0x08
	regClass         = 0x09
	regCacheLine     = 0x0c
	regLatency       = 0x0d
	regBAR0          = 0x10
	regSubsysVendor  = 0x2c
	regSubsys        = 0x2e
	regCapabilities  = 0x34
	regInterruptLine = 0x3c
)

const (
	// Memory space, bus master, parity error response, SERR, interrupt disable.
	commandWritable = 1<<1 | 1<<2 | 1<<6 | 1<<8 | 1<<10

	statusInterrupt    = 1 << 3
	statusCapabilities = 1 << 4
)

// The capability list. MSI-X comes first, so that a driver finds it even if it stops at the first
// capability that it does not know.
const (
	capMSIX   = 0x40
	capCommon = 0x4c
	capNotify = 0x5c
	capISR    = 0x70
	capDevice = 0x80
	capWindow = 0x90

	capIDVendor = 0x09
	capIDMSIX   = 0x11

	msixEnable = 1 << 15
	msixMask   = 1 << 14

	typeCommon = 1 // VIRTIO_PCI_CAP_COMMON_CFG and so on
	typeNotify = 2
	typeISR    = 3
	typeDevice = 4
	typeWindow = 5

	windowBAR    = capWindow + 4
	windowOffset = capWindow + 8
	windowLength = capWindow + 12
	windowData   = capWindow + 16
)

// initConfig fills in configuration space as it is after power-on.
func (f *Function) initConfig() {
	c, w, o := &f.config, &f.writable, &f.opt
	*c, *w = [configBytes]byte{}, [configBytes]byte{}
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32

	put16(c[regVendor:], vendorID)
	put16(c[regDevice:], deviceIDBase+o.Type)
	put16(w[regCommand:], commandWritable)
	put16(c[regStatus:], statusCapabilities)
	c[regRevision] = revisionID
	c[regClass], c[regClass+1], c[regClass+2] = byte(o.Class), byte(o.Class>>8), byte(o.Class>>16)
	w[regCacheLine], w[regLatency], w[regInterruptLine] = 0xff, 0xff, 0xff
	// The bits below the size are 0 and cannot be written: that is how a driver finds the size.
	put32(w[regBAR0:], -f.area.size)
	put16(c[regSubsysVendor:], o.SubsystemVendor)
	put16(c[regSubsys:], o.Subsystem)
	c[regCapabilities] = capMSIX

	c[capMSIX], c[capMSIX+1] = capIDMSIX, capCommon
	put16(c[capMSIX+2:], uint16(o.Vectors-1))
	put16(w[capMSIX+2:], msixEnable|msixMask)
	put32(c[capMSIX+4:], f.area.table.off) // the lower 3 bits are the BAR's number
	put32(c[capMSIX+8:], f.area.pending.off)

	vendor := func(at, next, length int, kind byte, a area) {
		copy(c[at:], []byte{capIDVendor, byte(next), byte(length), kind, 0})
		put32(c[at+8:], a.off)
		put32(c[at+12:], a.size)
	}
	vendor(capCommon, capNotify, 16, typeCommon, f.area.common)
	vendor(capNotify, capISR, 20, typeNotify, f.area.notify)
	put32(c[capNotify+16:], notifyMultiplier)
	next := capDevice
	if o.ConfigBytes == 0 {
		next = capWindow // no device configuration, no capability of it
	}
	vendor(capISR, next, 16, typeISR, f.area.isr)
	if o.ConfigBytes != 0 {
		vendor(capDevice, capWindow, 16, typeDevice, f.area.device)
	}
	vendor(capWindow, 0, 20, typeWindow, area{})
	w[windowBAR] = 0xff
	put32(w[windowOffset:], ^uint32(0))
	put32(w[windowLength:], ^uint32(0))
	put32(w[windowData:], ^uint32(0))
}

// covers says whether an access of n bytes at off has byte at in it.
func covers(off uint64, n int, at uint64) bool { return off <= at && at < off+uint64(n) }

// ReadConfig reads PCI configuration space at byte off.
func (f *Function) ReadConfig(dst []byte, off uint64) error {
	if off > ConfigBytes || uint64(len(dst)) > ConfigBytes-off {
		return ErrRange
	}
	f.settle()
	// "PCI configuration access capability": reading the data reads the BAR.
	if covers(off, len(dst), windowData) {
		data := f.config[windowData : windowData+4]
		clear(data)
		if b, at, ok := f.window(); ok {
			f.readBAR(b, at)
		}
	}
	f.config[regStatus] &^= statusInterrupt
	if f.isr.Load() != 0 && binary.LittleEndian.Uint16(f.config[capMSIX+2:])&msixEnable == 0 {
		f.config[regStatus] |= statusInterrupt // "ISR status capability"
	}
	clear(dst)
	if off < configBytes {
		copy(dst, f.config[off:])
	}
	return nil
}

// WriteConfig writes PCI configuration space at byte off; only writable bits change.
func (f *Function) WriteConfig(src []byte, off uint64) error {
	if off > ConfigBytes || uint64(len(src)) > ConfigBytes-off {
		return ErrRange
	}
	f.settle()
	for i, v := range src {
		at := off + uint64(i)
		if at >= configBytes {
			break
		}
		w := f.writable[at]
		f.config[at] = f.config[at]&^w | v&w
	}
	if covers(off, len(src), windowData) {
		if b, at, ok := f.window(); ok {
			f.writeBAR(b, at)
		}
	}
	return nil
}

// window is the access that the PCI configuration access capability describes: to the first bytes
// of its data, at an offset in BAR 0. It must be aligned, of 1, 2 or 4 bytes, and lie in a
// structure that another virtio capability describes.
func (f *Function) window() (data []byte, off uint64, ok bool) {
	at := binary.LittleEndian.Uint32(f.config[windowOffset:])
	n := binary.LittleEndian.Uint32(f.config[windowLength:])
	if f.config[windowBAR] != 0 || n != 1 && n != 2 && n != 4 || at%n != 0 {
		return nil, 0, false
	}
	for _, a := range [...]area{f.area.common, f.area.notify, f.area.isr, f.area.device} {
		if a.off <= at && at-a.off < a.size && n <= a.size-(at-a.off) {
			return f.config[windowData : windowData+n], uint64(at), true
		}
	}
	return nil, 0, false
}
