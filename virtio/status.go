package virtio

import (
	"errors"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// The status byte of a request ("Device Operation").
const (
	BlkStatusOK                 byte = 0
	BlkStatusIOErr              byte = 1
	BlkStatusUnsupp             byte = 2
	BlkStatusZoneInvalidCmd     byte = 3
	BlkStatusZoneUnalignedWP    byte = 4
	BlkStatusZoneOpenResource   byte = 5
	BlkStatusZoneActiveResource byte = 6
)

// statuses maps the sentinel errors of package backend.
var statuses = [...]struct {
	err    error
	status byte
}{
	{disk.ErrIO, BlkStatusIOErr},
	{disk.ErrUnsupported, BlkStatusUnsupp},
	// "A device MUST set the status byte to VIRTIO_BLK_S_IOERR for a write
	// request if the VIRTIO_BLK_F_RO feature if offered".
	{disk.ErrReadOnly, BlkStatusIOErr},
	{disk.ErrRange, BlkStatusIOErr},
	{zone.ErrInvalid, BlkStatusZoneInvalidCmd},
	{zone.ErrUnaligned, BlkStatusZoneUnalignedWP},
	{zone.ErrOpenLimit, BlkStatusZoneOpenResource},
	{zone.ErrActiveLimit, BlkStatusZoneActiveResource},
}

// StatusOf is the status byte for the outcome of a request, and the only place
// that knows which error is which. An error it does not know is IOERR.
func StatusOf(err error) byte {
	if err == nil {
		return BlkStatusOK
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	return BlkStatusIOErr
}
