package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// faults has null_blk fail under load, in one way after the other.
func (h *host) faults() (string, error) {
	return h.weather(func(s *storm) error {
		if err := errors.Join(s.l.run(100), s.badBlocks()); err != nil {
			return err
		}
		for attribute, z := range map[string]*zone{"zone_readonly": s.l.zones[2], "zone_offline": s.l.zones[3]} {
			if err := s.outOfService(attribute, z); err != nil {
				return err
			}
		}
		return nil
	})
}

// set writes an attribute of null_blk.
func (s *storm) set(name, value string) error {
	return os.WriteFile(filepath.Join(s.h.configfs, name), []byte(value), 0)
}

// badBlocks makes sectors in the middle of a zone bad: its writes fail, and those
// behind them, which are not at the write pointer then; others do not. A drive with
// badblocks_partial_io writes up to the bad ones.
func (s *storm) badBlocks() error {
	z := s.l.zones[1]
	from := z.start + z.capacity/4/block*block
	span := fmt.Sprintf("%d-%d", from, from+2*block-1)
	s.expect(failing, z)
	err := errors.Join(s.set("badblocks", "+"+span), s.check("bad blocks", nil, z), s.set("badblocks", "-"+span))
	s.expect(nil, z)
	if err != nil {
		return err
	}
	return s.check("bad blocks that are good again", nil)
}

// outOfService has zone z turn read-only or offline, and be of use again: null_blk
// empties it when it is told the same a second time.
func (s *storm) outOfService(attribute string, z *zone) error {
	start := fmt.Sprint(z.start)
	s.expect(failing, z)
	if err := errors.Join(s.set(attribute, start), s.check(attribute, nil, z)); err != nil {
		return err
	}
	s.expect(refused, z) // it is known by now
	if err := s.check(attribute, nil, z); err != nil {
		return err
	}
	z.writes = nil
	if err := s.set(attribute, start); err != nil {
		return err
	}
	zones, err := s.h.agree(s.disk) // a guest that looks for such zones has to ask
	if err != nil {
		return fmt.Errorf("%s, back again: %w", attribute, err)
	}
	s.l.resume(zones)
	// The kernel has not been told: a first write may fail for not being where it
	// takes the write pointer to be (wp_offset of struct blk_zone_wplug).
	s.expect(failing, z)
	if err := s.check(attribute+" and back", nil); err != nil {
		return err
	}
	s.expect(nil, z)
	before := z.written
	if err := s.check(attribute+" and back", nil); err != nil {
		return err
	}
	if z.written == before {
		return fmt.Errorf("%s: the zone takes no writes again", attribute)
	}
	return nil
}
