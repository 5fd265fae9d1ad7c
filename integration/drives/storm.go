package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A storm is a load under which something goes wrong with the drive.
type storm struct {
	h    *host
	disk *frontend.Disk
	l    *load
	// expected is what zones may answer besides, by now.
	expected map[*zone][]byte
	done     []string // what was tried
	vanished bool
}

// What a zone may answer whose writes fail: those behind a failed one are not at
// the write pointer. One that is out of service refuses everything.
var (
	failing = []byte{driver.StatusIOErr, driver.StatusZoneUnalignedWP, driver.StatusZoneInvalidCmd}
	refused = []byte{driver.StatusZoneInvalidCmd}
)

// weather serves the drive, and has f make it fail under load. The daemon has to
// live, and to end when it is told to.
func (h *host) weather(f func(*storm) error) (said string, err error) {
	d, err := h.serve()
	if err != nil {
		return "", err
	}
	var s *storm
	defer func() {
		end := d.End(unix.SIGTERM)
		if s != nil && s.vanished && end != nil && strings.Contains(end.Error(), ": sync: ") {
			end = nil // it may say that it could not sync what is not there any more
		}
		err = errors.Join(err, end)
	}()
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
	s = &storm{h: h, disk: disk, l: l, expected: make(map[*zone][]byte)}
	limits := l.allow
	l.allow = func(z *zone, status byte) bool {
		return slices.Contains(s.expected[z], status) || limits(z, status)
	}
	err = f(s)
	if err == nil && h.vanish != "" {
		err = s.vanish()
	}
	return fmt.Sprintf("%s: %d answers, all right, and the reports agree", strings.Join(s.done, ", "), l.answers), err
}

// expect has these zones, or all, answer with these statuses besides.
func (s *storm) expect(statuses []byte, zones ...*zone) {
	if zones == nil {
		zones = s.l.zones
	}
	for _, z := range zones {
		s.expected[z] = statuses
	}
}

// check keeps the load up while something is wrong, has calm put it right, and
// looks whether the view of the drive is the drive's. Of the zones that were
// struck one at least has to have refused something.
func (s *storm) check(what string, calm func() error, struck ...*zone) error {
	l := s.l
	refused := func() (n int) {
		for _, z := range struck {
			n += z.refused
		}
		return n
	}
	err := l.run(400)
	// Where a zone is bad in one place, the load may be behind that just now.
	for more := 0; err == nil && len(struck) > 0 && refused() == 0 && more < 20; more++ {
		err = l.run(200)
	}
	err = errors.Join(err, l.drain())
	if err == nil && calm != nil {
		err = calm()
	}
	if err == nil && len(struck) > 0 && refused() == 0 {
		err = errors.New("nothing was refused")
	}
	var zones []driver.Zone
	if err == nil {
		zones, err = s.look()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	l.resume(zones)
	if !slices.Contains(s.done, what) {
		s.done = append(s.done, what)
	}
	return nil
}

// look takes the reports, which have to agree, and reads what was answered. Where
// somebody else changes zones meanwhile, what it finds counts only if they stayed as
// they were.
func (s *storm) look() ([]driver.Zone, error) {
	for tries := 1; ; tries++ {
		before, err := s.h.asKernel()
		if err != nil {
			return nil, err
		}
		zones, found := s.h.agree(s.disk)
		if found == nil {
			gone := make(map[uint64]bool)
			for _, z := range zones {
				gone[z.Start] = z.State == driver.ZoneOffline
			}
			_, found = s.l.verify(s.disk, zones, func(z *zone) bool { return !gone[z.start] })
		}
		if found == nil || s.h.until == "" || tries == 5 {
			return zones, found
		}
		if after, err := s.h.asKernel(); err != nil || after == before {
			return nil, errors.Join(found, err)
		}
	}
}

// resume has the load go on with the zones as they are: what failed may have
// landed in part.
func (l *load) resume(zones []driver.Zone) {
	for _, z := range l.zones {
		for i := range zones {
			if zones[i].Start != z.start {
				continue
			}
			z.reserved = z.capacity
			if pointed(zones[i].State) {
				z.reserved = zones[i].WP - z.start
			}
		}
		z.refused = 0
	}
}

// vanish takes the drive away, by FILE=VALUE: everything fails from then on.
func (s *storm) vanish() error {
	file, value, _ := strings.Cut(s.h.vanish, "=")
	s.expect(failing)
	s.vanished = true
	err := errors.Join(s.l.run(50), os.WriteFile(file, []byte(value), 0), s.l.run(200), s.l.drain())
	if err != nil {
		return fmt.Errorf("a drive that vanishes: %w", err)
	}
	if err := s.disk.Queue(0).Write(make([]byte, 4096), s.l.zones[0].start); err == nil {
		return errors.New("a write succeeds on a drive that has vanished")
	}
	s.done = append(s.done, "a drive that vanishes")
	return nil
}

// storm is drives storm: the drive fails by itself, wherever it does.
func (h *host) storm() (string, error) {
	return h.weather(func(s *storm) error {
		s.expect(failing)
		for round := range h.rounds {
			if _, err := os.Stat(h.until); err == nil {
				break
			}
			if err := s.check("a drive that fails now and then", nil); err != nil {
				return err
			}
			fmt.Printf("round %d: %d answers\n", round+1, s.l.answers)
		}
		if h.refused && s.l.refused == 0 {
			return errors.New("nothing was refused")
		}
		return nil
	})
}
