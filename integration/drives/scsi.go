package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// Commands of SCSI (SBC-4, ZBC-2).
const (
	scsiRead    = 0x88
	scsiWrite   = 0x8a
	scsiZoneOut = 0x94
	scsiZoneIn  = 0x95
)

// Sense key, code and qualifier that commands end with.
const (
	senseMedium    = "0x3 0x11 0x0" // unrecovered error, which is not tried again
	senseTarget    = "0x5 0x24 0x0" // invalid field in the command
	senseResources = "0x7 0x55 0xe" // insufficient zone resources
)

// scsi has scsi_debug fail under load, in one way after the other: by rules that
// it is given through debugfs (sdebug_error_write in drivers/scsi/scsi_debug.c).
func (h *host) scsi() (string, error) {
	return h.weather(func(s *storm) error {
		if err := s.l.run(100); err != nil {
			return err
		}
		s.expect([]byte{driver.StatusIOErr, driver.StatusZoneUnalignedWP})
		for _, t := range []struct {
			what  string
			rules []string
		}{
			{"writes that fail", []string{fails(6, scsiWrite, senseMedium)}},
			{"resets that fail", []string{fails(4, scsiZoneOut, senseTarget)}},
			{"reports that fail, too", []string{fails(9, scsiWrite, senseMedium), fails(9, scsiZoneIn, senseMedium)}},
		} {
			if err := s.rules(t.what, t.rules, s.l.zones...); err != nil {
				return err
			}
		}
		// It is the load's limits that allow what comes of this.
		s.expect([]byte{driver.StatusZoneUnalignedWP})
		before := s.l.seen[driver.StatusZoneOpenResource]
		if err := s.rules("zone resources used up", []string{fails(6, scsiWrite, senseResources)}, s.l.zones...); err != nil {
			return err
		}
		if s.l.seen[driver.StatusZoneOpenResource] == before {
			return errors.New("zone resources used up: that is not what was answered")
		}
		// The kernel waits for it, aborts it and tries again.
		s.expect(nil)
		if err := s.rules("a command without an answer", []string{fmt.Sprintf("0 -1 %#x", scsiWrite)}); err != nil {
			return err
		}
		return s.reads()
	})
}

// fails is a rule: the next n of a command fail.
func fails(n, command int, sense string) string {
	return fmt.Sprintf("2 -%d %#x 0 0 0x2 %s", n, command, sense)
}

// rules is check under some rules, which are taken away before the drive is looked
// at.
func (s *storm) rules(what string, rules []string, struck ...*zone) error {
	for _, r := range rules {
		if err := os.WriteFile(s.h.errors, []byte(r), 0); err != nil {
			return err
		}
	}
	calm := func() error {
		var err error
		for _, r := range rules {
			var kind, n, command int
			_, e := fmt.Sscanf(r, "%d %d %v", &kind, &n, &command)
			err = errors.Join(err, e, os.WriteFile(s.h.errors, fmt.Appendf(nil, "- %d %#x", kind, command), 0))
		}
		return err
	}
	return s.check(what, calm, struck...)
}

// reads has a read fail, which is good the next time.
func (s *storm) reads() error {
	q, z := s.disk.Queue(0), s.l.zones[0]
	b := make([]byte, 4096)
	err := errors.Join(q.Zone(driver.TypeZoneReset, z.start), q.Write(b, z.start),
		os.WriteFile(s.h.errors, []byte(fails(1, scsiRead, senseMedium)), 0))
	if err != nil {
		return err
	}
	if got := frontend.Status(q.Read(b, z.start)); got != driver.StatusIOErr {
		return fmt.Errorf("a read that failed is answered %s", driver.StatusString(got))
	}
	z.writes, z.reserved = nil, 4096/sectorBytes
	s.done = append(s.done, "a read that fails")
	return q.Read(b, z.start)
}
