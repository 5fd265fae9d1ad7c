package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/driver"
)

// keep kills the daemon under a keeper, and load, which must not notice: every
// request is answered with OK, and each zone is written exactly as far as the
// requests for it say. An append that was carried out twice would be seen by that.
func (h *host) keep() (said string, err error) {
	d, err := h.serve("keeper", "--", h.zvhost)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, d.End(unix.SIGTERM)) }()
	disk, err := h.connect(bufferBytes)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, disk.Abandon()) }()
	l, err := newLoad(disk, h.rng, 0)
	if err != nil {
		return "", err
	}
	l.allow = func(*zone, byte) bool { return false }
	for range h.rounds {
		if err := l.run(1 + h.rng.IntN(300)); err != nil {
			return "", err
		}
		time.Sleep(time.Duration(h.rng.IntN(3000)) * time.Microsecond)
		if err := d.KillNext(); err != nil {
			return "", err
		}
	}
	return h.unnoticed(l, "kills")
}

// unnoticed ends a load that was to notice nothing of what was done to it, and looks
// whether it stands on the drive, once.
func (h *host) unnoticed(l *load, done string) (said string, err error) {
	if err := errors.Join(l.run(100), l.drain()); err != nil {
		return "", err
	}
	zones, err := h.agree(l.disk)
	if err != nil {
		return "", err
	}
	if err := l.exact(zones); err != nil {
		return "", err
	}
	writes, err := l.verify(l.disk, zones, nil)
	return fmt.Sprintf("%d %s under %d requests, each answered with OK: %d writes read back, and each zone is as long as they are", h.rounds, done, l.answers, writes), err
}

// exact looks whether zones end where the writes into them do, when nothing is in
// flight and nothing was refused.
func (l *load) exact(zones []driver.Zone) error {
	ends := make(map[uint64]uint64)
	for _, z := range zones {
		if ends[z.Start] = z.WP; z.State == driver.ZoneFull {
			ends[z.Start] = z.Start + z.Capacity
		}
	}
	for _, z := range l.zones {
		if end := z.start + z.reserved; ends[z.start] != end {
			return fmt.Errorf("the zone at sector %d ends at sector %d, and its writes at %d", z.start, ends[z.start], end)
		}
	}
	return nil
}
