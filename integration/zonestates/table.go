package main

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A setup is a state to bring a zone into, from empty.
type setup struct {
	name    string
	state   uint8
	blocks  uint64 // written then
	prepare func(d *device, i int) error
}

// writeTwo writes the first two blocks of zone i.
func writeTwo(d *device, i int) error { return d.write(d.zones[i].start, 2*d.block) }

func manages(ops ...uintptr) func(d *device, i int) error {
	return func(d *device, i int) error {
		for _, op := range ops {
			if err := d.manage(op, i); err != nil {
				return err
			}
		}
		return nil
	}
}

func inTurn(steps ...func(d *device, i int) error) func(d *device, i int) error {
	return func(d *device, i int) error {
		for _, step := range steps {
			if err := step(d, i); err != nil {
				return err
			}
		}
		return nil
	}
}

var setups = []setup{
	{"empty", empty, 0, manages()},
	{"implicitly open", impOpen, 2, writeTwo},
	{"explicitly open, nothing written", expOpen, 0, manages(opOpen)},
	{"explicitly open", expOpen, 2, inTurn(manages(opOpen), writeTwo)},
	{"opened when closed", expOpen, 2, inTurn(writeTwo, manages(opClose, opOpen))},
	{"closed", closed, 2, inTurn(writeTwo, manages(opClose))},
	{"finished", full, 2, inTurn(writeTwo, manages(opFinish))},
	{"finished when empty", full, 0, manages(opFinish)},
}

// What an operation leaves: the state it was in.
const same = 0xff

// An operation is tried on a zone in each state.
type operation struct {
	name string
	do   func(d *device, i int, s *setup) error
	// after has the state that follows each, where that is not an error.
	after map[uint8]uint8
	// blocks that it writes
	blocks uint64
}

var operations = []operation{
	{"open", func(d *device, i int, _ *setup) error { return d.manage(opOpen, i) },
		map[uint8]uint8{empty: expOpen, impOpen: expOpen, expOpen: expOpen, closed: expOpen}, 0},
	{"close", func(d *device, i int, _ *setup) error { return d.manage(opClose, i) },
		map[uint8]uint8{impOpen: closed, expOpen: closed, closed: closed}, 0},
	{"finish", func(d *device, i int, _ *setup) error { return d.manage(opFinish, i) },
		map[uint8]uint8{empty: full, impOpen: full, expOpen: full, closed: full, full: full}, 0},
	{"reset", func(d *device, i int, _ *setup) error { return d.manage(opReset, i) },
		map[uint8]uint8{empty: empty, impOpen: empty, expOpen: empty, closed: empty, full: empty}, 0},
	{"write at the write pointer", func(d *device, i int, s *setup) error { return d.write(d.zones[i].start+s.blocks*d.block, d.block) },
		map[uint8]uint8{empty: impOpen, impOpen: impOpen, expOpen: expOpen, closed: impOpen}, 1},
	{"write behind the write pointer", func(d *device, i int, s *setup) error { return d.write(d.zones[i].start+(s.blocks+1)*d.block, d.block) },
		nil, 0},
	{"write over the beginning", func(d *device, i int, s *setup) error {
		if s.blocks == 0 {
			return unix.EIO // that is where the write pointer is
		}
		return d.write(d.zones[i].start, d.block)
	}, nil, 0},
	{"write of the last block", func(d *device, i int, _ *setup) error {
		return d.write(d.zones[i].start+d.zones[i].capacity-d.block, d.block)
	},
		nil, 0},
	{"read", func(d *device, i int, _ *setup) error { _, err := d.read(d.zones[i].start); return err },
		map[uint8]uint8{empty: same, impOpen: same, expOpen: same, closed: same, full: same}, 0},
	{"read above the write pointer", func(d *device, i int, s *setup) error {
		b, err := d.read(d.zones[i].start + (s.blocks+1)*d.block)
		if err == nil && !bytes.Equal(b, make([]byte, len(b))) {
			return errors.New("it does not read as zeroes")
		}
		return err
	}, map[uint8]uint8{empty: same, impOpen: same, expOpen: same, closed: same, full: same}, 0},
	{"write behind the capacity", func(d *device, i int, _ *setup) error {
		if d.zones[i].capacity == d.zones[i].length {
			return unix.EIO // there is nothing behind it
		}
		return d.write(d.zones[i].start+d.zones[i].capacity, d.block)
	}, nil, 0},
}

// tryAll tries every operation in every state on zone i. It returns how many it
// has tried.
func (d *device) tryAll(i int) (tried int, err error) {
	for _, s := range setups {
		for _, o := range operations {
			if err := d.try(i, &s, &o); err != nil {
				return tried, fmt.Errorf("zone %d, %s, %s: %w", i, s.name, o.name, err)
			}
			tried++
		}
	}
	return tried, d.manage(opReset, i)
}

// try brings zone i into a state and tries one operation.
func (d *device) try(i int, s *setup, o *operation) error {
	if err := d.manage(opReset, i); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	if err := s.prepare(d, i); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	if err := d.expect(i, s.state, s.blocks); err != nil {
		return fmt.Errorf("prepared: %w", err)
	}
	err := o.do(d, i, s)
	after, lawful := o.after[s.state]
	blocks := s.blocks
	switch {
	case !lawful && err != unix.EIO:
		return fmt.Errorf("%v, and EIO is right", err)
	case lawful && err != nil:
		return err
	case !lawful || after == same:
		after = s.state
	default:
		blocks += o.blocks
	}
	if after == empty || after == closed && s.blocks == 0 {
		after, blocks = empty, 0
	}
	if err := d.expect(i, after, blocks); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	return nil
}

// expect looks whether zone i is in a state with so many blocks written, and
// holds them.
func (d *device) expect(i int, state uint8, blocks uint64) error {
	zones, err := d.report(d.zones[i].start, 1)
	if err != nil {
		return err
	}
	z := zones[0]
	if z.state != state {
		return fmt.Errorf("it is %s, and %s is right", stateNames[z.state], stateNames[state])
	}
	wp := z.start + blocks*d.block
	if state == full {
		wp = z.start + z.length
	}
	if z.wp != wp {
		return fmt.Errorf("its write pointer is at %d, and %d is right", z.wp-z.start, wp-z.start)
	}
	if z.start != d.zones[i].start || z.length != d.zones[i].length || z.capacity != d.zones[i].capacity {
		return fmt.Errorf("it was %+v and is %+v", d.zones[i], z)
	}
	want := make([]byte, d.block*sectorBytes)
	for n := range blocks {
		sector := z.start + n*d.block
		got, err := d.read(sector)
		if err != nil {
			return err
		}
		if fill(want, sector); !bytes.Equal(got, want) {
			return fmt.Errorf("block %d does not hold what was written", n)
		}
	}
	return nil
}
