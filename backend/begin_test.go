package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
)

// A daemon that died before it served a queue has left nothing in doubt: not so one
// that had begun, whether as another user of the image or as the one of before.
func TestUncleanOnceBegun(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	for _, c := range []struct {
		name    string
		begin   func(disk.Disk) error
		clean   bool // it is closed
		unclean bool // as the next one finds it
	}{
		{"opened", func(disk.Disk) error { return nil }, false, false},
		{"opened again", func(disk.Disk) error { return nil }, false, false},
		{"another user", func(d disk.Disk) error { _, err := disk.Renew(d); return err }, false, true},
		{"opened after that", func(disk.Disk) error { return nil }, false, true},
		{"left so", func(d disk.Disk) error { disk.LeaveUnclean(d); return nil }, true, true},
		{"opened after that", func(disk.Disk) error { return nil }, false, true},
		{"left so again", func(d disk.Disk) error { disk.LeaveUnclean(d); return nil }, true, true},
		{"closed", func(disk.Disk) error { return nil }, true, false},
		{"the user of before", disk.Begin, false, true},
		{"closed after that", disk.Begin, true, false},
		{"opened", func(disk.Disk) error { return nil }, false, false},
	} {
		d, fs := openFaulty(t, path)
		if err := c.begin(d); err != nil {
			t.Fatal(err)
		}
		if !c.clean {
			kill(t, d, fs)
		} else if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		next, fs := openFaulty(t, path)
		if disk.Unclean(next) != c.unclean {
			t.Errorf("%s: unclean %v", c.name, disk.Unclean(next))
		}
		kill(t, next, fs)
	}
}
