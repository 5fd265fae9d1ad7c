package main

import (
	"fmt"
	"os"
)

func main() {
	for _, path := range os.Args[1:] {
		if err := run(path); err != nil {
			fmt.Printf("%s: %v\n", path, err)
			os.Exit(1)
		}
	}
}

// run tries everything on one disk: the first and the last sequential zone that
// are in service go through the table.
func run(path string) error {
	d, err := openDevice(path)
	if err != nil {
		return err
	}
	var usable []int
	for i := range d.zones {
		switch z := &d.zones[i]; {
		case z.state == readOnly, z.state == offline:
			err = d.outOfService(i)
		case z.kind == conventional:
			err = d.unmanaged(i)
		default:
			usable = append(usable, i)
		}
		if err != nil {
			return fmt.Errorf("zone %d, %s: %w", i, stateNames[d.zones[i].state], err)
		}
	}
	tried := 0
	for _, i := range []int{usable[0], usable[len(usable)-1]} {
		n, err := d.tryAll(i)
		if tried += n; err != nil {
			return err
		}
		if err := d.fillUp(i); err != nil {
			return fmt.Errorf("zone %d, filling it up: %w", i, err)
		}
	}
	if err := d.limits(usable); err != nil {
		return err
	}
	fmt.Printf("%s: %d operations tried in %d states, %d zones opened against the limits\n", path, tried, len(setups), len(usable))
	return nil
}
