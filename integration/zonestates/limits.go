package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// fillUp writes zone i up to its capacity: it is full then, and takes no more.
func (d *device) fillUp(i int) error {
	z := &d.zones[i]
	step := min(z.capacity, uint64(len(d.buf))/sectorBytes)
	for at := uint64(0); at < z.capacity; at += step {
		if err := d.write(z.start+at, min(step, z.capacity-at)); err != nil {
			return fmt.Errorf("at sector %d: %w", at, err)
		}
	}
	zones, err := d.report(z.start, 1)
	if err != nil {
		return err
	}
	if zones[0].state != full {
		return fmt.Errorf("it is %s when it is filled up", stateNames[zones[0].state])
	}
	if z.capacity < z.length {
		if err := d.write(z.start+z.capacity, d.block); err != unix.EIO {
			return fmt.Errorf("a write behind the capacity: %v", err)
		}
	}
	return d.manage(opReset, i)
}

// outOfService looks at a zone that is read-only or offline: every operation
// fails, and so does a read of an offline one.
func (d *device) outOfService(i int) error {
	state := d.zones[i].state
	s := &setup{}
	for _, o := range operations {
		err := o.do(d, i, s)
		reads := o.name == "read" || o.name == "read above the write pointer"
		switch {
		case reads && state == readOnly:
			if err != nil {
				return fmt.Errorf("%s: %w", o.name, err)
			}
		case err != unix.EIO:
			return fmt.Errorf("%s: %v, and EIO is right", o.name, err)
		}
	}
	zones, err := d.report(d.zones[i].start, 1)
	if err == nil && zones[0] != d.zones[i] {
		err = fmt.Errorf("it was %+v and is %+v", d.zones[i], zones[0])
	}
	return err
}

// unmanaged looks at a conventional zone: it takes writes anywhere and no zone
// operations.
func (d *device) unmanaged(i int) error {
	z := &d.zones[i]
	for _, at := range []uint64{z.length - d.block, 0, 4 * d.block, 0} {
		if err := d.write(z.start+at, d.block); err != nil {
			return fmt.Errorf("a write at %d: %w", at, err)
		}
		got, err := d.read(z.start + at)
		if err != nil {
			return err
		}
		want := make([]byte, len(got))
		if fill(want, z.start+at); string(got) != string(want) {
			return fmt.Errorf("sector %d does not hold what was written", at)
		}
	}
	for name, op := range map[string]uintptr{"open": opOpen, "close": opClose, "finish": opFinish} {
		if err := d.manage(op, i); err == nil {
			return fmt.Errorf("%s is accepted", name)
		}
	}
	zones, err := d.report(z.start, 1)
	if err == nil && zones[0] != *z {
		err = fmt.Errorf("it was %+v and is %+v", *z, zones[0])
	}
	return err
}

// limits opens and writes zones until no more may be open or active. The error
// says which limit it was.
func (d *device) limits(zones []int) (err error) {
	defer func() {
		for _, i := range zones {
			err = errors.Join(err, d.manage(opReset, i))
		}
	}()
	opened := 0
	for _, i := range zones {
		err := d.manage(opOpen, i)
		if err == nil {
			opened++
			continue
		}
		want := unix.ETOOMANYREFS
		if d.maxActive != 0 && opened == d.maxActive {
			want = unix.EOVERFLOW // it counts first where both are reached
		}
		if err != want {
			return fmt.Errorf("opening zone %d, with %d open: %v, and %v is right", i, opened, err, want)
		}
		break
	}
	most := len(zones)
	for _, limit := range []int{d.maxOpen, d.maxActive} {
		if limit != 0 {
			most = min(most, limit)
		}
	}
	if opened != most {
		return fmt.Errorf("%d zones can be open at once, %d is right", opened, most)
	}
	// Zones that are written and closed are active, but not open.
	active := 0
	for _, i := range zones {
		if err := d.manage(opReset, i); err != nil {
			return err
		}
	}
	for _, i := range zones {
		if err := d.write(d.zones[i].start, d.block); err != nil {
			if err != unix.EOVERFLOW {
				return fmt.Errorf("writing to zone %d, with %d active: %v, and EOVERFLOW is right", i, active, err)
			}
			break
		}
		if active++; active%2 == 0 { // the others are closed by the disk
			if err := d.manage(opClose, i); err != nil {
				return fmt.Errorf("closing zone %d: %w", i, err)
			}
		}
	}
	if most = len(zones); d.maxActive != 0 {
		most = min(most, d.maxActive)
	}
	if active != most {
		return fmt.Errorf("%d zones can be active at once, %d is right", active, most)
	}
	return nil
}
