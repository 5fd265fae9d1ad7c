package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// longBytes is more than drives take at once.
const longBytes = 1 << 20

// limits looks for the statuses of a drive whose open or active zones are used
// up. Who is closed to make room is the drive's business, and so is whether it
// has room for one more: here there is none by any rule.
func (h *host) limits() (said string, err error) {
	d, err := h.serve()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, d.End(unix.SIGTERM)) }()
	disk, err := h.connect(longBytes)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	open, active := int(disk.Config.MaxOpenZones), int(disk.Config.MaxActiveZones)
	zones, err := sequential(disk)
	if err != nil {
		return "", err
	}
	q := disk.Queue(0)
	if len(zones) <= max(open, active) {
		return "", fmt.Errorf("%d sequential zones are too few", len(zones))
	}
	short, long := make([]byte, 4096), make([]byte, min(longBytes, zones[0].Capacity*sectorBytes))
	refuse := func(what string, at uint64, want byte) error {
		_, append := q.Append(short, at)
		for _, err := range []error{q.Write(short, at), q.Write(long, at), append, q.Zone(driver.TypeZoneOpen, at)} {
			if got := frontend.Status(err); got != want {
				return fmt.Errorf("with all %s zones used up: %s, not %s", what, driver.StatusString(got), driver.StatusString(want))
			}
		}
		return nil
	}
	if open > 0 {
		for _, z := range zones[:open] {
			err = errors.Join(err, q.Zone(driver.TypeZoneOpen, z.Start))
		}
		if err = errors.Join(err, refuse("open", zones[open].Start, driver.StatusZoneOpenResource)); err != nil {
			return "", err
		}
	}
	err = q.Zone(driver.TypeZoneResetAll, 0)
	if active > 0 {
		for _, z := range zones[:active] {
			err = errors.Join(err, q.Write(short, z.Start), q.Zone(driver.TypeZoneClose, z.Start))
		}
		if err = errors.Join(err, refuse("active", zones[active].Start, driver.StatusZoneActiveResource)); err != nil {
			return "", err
		}
	}
	if err == nil {
		_, err = h.agree(disk)
	}
	return fmt.Sprintf("limits of %d open and %d active zones are told as such", open, active), err
}
