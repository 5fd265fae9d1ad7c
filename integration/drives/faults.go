package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/driver"
)

// faults has the drive fail under load, in one way after the other.
func (h *host) faults() (said string, err error) {
	d, err := h.serve()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, d.end(unix.SIGTERM)) }()
	disk, err := h.connect(bufferBytes)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, disk.Abandon()) }()
	l, err := newLoad(disk, h.rng, 0)
	if err != nil {
		return "", err
	}
	if len(l.zones) < 5 {
		return "", fmt.Errorf("%d sequential zones are too few", len(l.zones))
	}
	if err := l.run(100); err != nil {
		return "", err
	}
	// What zones may answer besides.
	expected := make(map[*zone][]byte)
	limits := l.allow
	l.allow = func(z *zone, status byte) bool {
		for _, s := range expected[z] {
			if s == status {
				return true
			}
		}
		return limits(z, status)
	}
	offline := l.zones[3]
	check := func(what string, struck *zone) error {
		if err := errors.Join(l.run(400), l.drain()); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if struck != nil && struck.refused == 0 {
			return fmt.Errorf("%s: nothing was refused", what)
		}
		zones, err := h.agree(disk)
		if err == nil {
			_, err = l.verify(disk, zones, func(z *zone) bool { return z != offline || len(expected[z]) == 0 })
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		for _, z := range l.zones { // what failed may have landed in part
			for i := range zones {
				if zones[i].Start == z.start && pointed(zones[i].State) {
					z.reserved = zones[i].WP - z.start
				} else if zones[i].Start == z.start {
					z.reserved = z.capacity
				}
			}
			z.refused = 0
		}
		return nil
	}
	set := func(name, value string) error {
		return os.WriteFile(filepath.Join(h.configfs, name), []byte(value), 0)
	}

	// Sectors in the middle of a zone cannot be written: its writes fail, and those
	// behind them, which are not at the write pointer then; others do not.
	bad := l.zones[1]
	from := bad.start + bad.capacity/4/block*block
	span := fmt.Sprintf("%d-%d", from, from+2*block-1)
	expected[bad] = []byte{driver.StatusIOErr, driver.StatusZoneUnalignedWP, driver.StatusZoneInvalidCmd}
	if err := errors.Join(set("badblocks", "+"+span), check("bad blocks", bad), set("badblocks", "-"+span)); err != nil {
		return "", err
	}
	if err := check("bad blocks that are good again", nil); err != nil {
		return "", err
	}
	// A zone turns read-only, another one offline.
	failed := []byte{driver.StatusZoneInvalidCmd, driver.StatusIOErr}
	for name, z := range map[string]*zone{"zone_readonly": l.zones[2], "zone_offline": offline} {
		expected[z] = failed
		if err := errors.Join(set(name, fmt.Sprint(z.start)), check(name, z)); err != nil {
			return "", err
		}
		expected[z] = []byte{driver.StatusZoneInvalidCmd} // it is known by now
		if err := check(name+", later", z); err != nil {
			return "", err
		}
	}
	// The drive vanishes: everything fails, and the daemon ends when it is told to.
	for _, z := range l.zones {
		expected[z] = []byte{driver.StatusIOErr, driver.StatusZoneUnalignedWP, driver.StatusZoneInvalidCmd}
	}
	if err := errors.Join(l.run(50), set("power", "0"), l.run(200), l.drain()); err != nil {
		return "", fmt.Errorf("power off: %w", err)
	}
	if err := disk.Queue(0).Write(make([]byte, 4096), l.zones[0].start); err == nil {
		return "", errors.New("a write succeeds on a drive that has vanished")
	}
	return fmt.Sprintf("bad blocks, a read-only and an offline zone, a drive that vanishes: %d answers, all right, and the reports agree", l.answers), nil
}
