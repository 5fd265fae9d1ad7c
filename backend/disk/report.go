package disk

import "github.com/zvhost/zvhost/backend/zone"

// Report is the zones of an image, or of a zoned block device, at one moment.
type Report struct {
	Info  Info
	Zones []zone.Descriptor
	// InUse says that a daemon has the image, or some of the zones, open for
	// writing.
	InUse bool
	// UUID identifies the image; zero for a device.
	UUID [16]byte
}
