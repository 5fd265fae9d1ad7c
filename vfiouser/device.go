package vfiouser

import "github.com/zvhost/zvhost/internal/foreign"

// Limits of a device and of what a client may set up.
const (
	MaxRegions = 64
	MaxIRQs    = 16
	MaxVectors = 2048 // of one interrupt type, as MSI-X has
	// MaxMaps is how many DMA maps there may be at once, as many as vhost-user has memory
	// regions. A client with an IOMMU for the device may want more.
	MaxMaps = 509
	// PageSize is what addresses, sizes and offsets of DMA maps are multiples of.
	PageSize = 4096
)

// A Device is what a session puts behind the protocol. A session calls it from one goroutine,
// one call at a time. Sessions may follow each other on one Device.
//
// An error that is, or wraps, a unix.Errno gives the client that number, any other EIO.
type Device interface {
	// Info says what the device has. It never changes.
	Info() Info
	// ReadRegion fills dst from a region, at byte off. Region and range exist, and the region
	// is readable.
	ReadRegion(region uint32, dst []byte, off uint64) error
	// WriteRegion writes src to a region, at byte off. Region and range exist, and the region
	// is writable.
	WriteRegion(region uint32, src []byte, off uint64) error
	// MapDMA adds memory of the client that the device may use. It overlaps none that is
	// mapped. file is the device's from now on, also after an error. It is nil where the
	// client has no descriptor for the memory: the device must not use the memory then, and
	// learns of it only so that it knows why an address does not work.
	MapDMA(m DMA, file *foreign.FD) error
	// UnmapDMA removes maps that MapDMA has added. It returns once the device uses nothing of
	// them any more. After an error all of them are still mapped.
	UnmapDMA(maps []DMA) error
	// SetIRQ exchanges the eventfd that the device writes 1 to for a vector of an interrupt
	// type; -1: none. It is set to non-blocking, but the client shares that flag, so that a
	// write has to be made as foreign.Signal makes it. It is lent, until another SetIRQ for
	// the vector or Disconnect returns.
	SetIRQ(index, vector uint32, eventfd int)
	// Reset puts the device back to where it was when it was made. Maps and interrupts stay.
	Reset() error
	// Disconnect is called when the client has gone. It returns once the device uses none of
	// the maps, and closes their files, and none of the interrupts. The rest of its state
	// may stay, for a client that reconnects ("Client Disconnection").
	Disconnect()
}

// Info says what a device has.
type Info struct {
	Regions []Region // by index, 1 to MaxRegions
	IRQs    []IRQ    // by index, at most MaxIRQs
}

// A Region is one region of a device.
type Region struct {
	Size  uint64 // in bytes; 0: there is none with this index
	Flags uint32 // RegionReadable, RegionWritable
}

// An IRQ is one interrupt type of a device.
type IRQ struct {
	Count uint32 // vectors, at most MaxVectors
	Flags uint32 // IRQEventfd, IRQMaskable
}

// DMA is a piece of the client's memory.
type DMA struct {
	Address, Size      uint64 // in the device's address space
	Offset             uint64 // in the file
	Readable, Writable bool
}

// A Level says how important a log line is.
type Level uint8

// The levels, least important first.
const (
	LevelDebug Level = iota
	LevelInfo
	LevelWarn
)

// LogFunc takes a log line.
type LogFunc func(level Level, format string, args ...any)
