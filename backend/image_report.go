package backend

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

func readReport(f *os.File) (disk.Report, error) {
	l, err := readSuper(f)
	if err != nil {
		return disk.Report{}, err
	}
	rep := disk.Report{Info: disk.Describe(&l.Geometry, false), UUID: l.uuid}
	if rep.InUse, err = inUse(f); err != nil {
		return disk.Report{}, err
	}
	if size, err := disk.SizeOf(int(f.Fd())); err != nil {
		return disk.Report{}, err
	} else if err := l.checkSize(size); err != nil {
		return disk.Report{}, err
	}
	if err := l.checkTables(f); err != nil {
		return disk.Report{}, fmt.Errorf("%w; run 'zvhost check'", err)
	}
	here, err := whereIs(f)
	if err != nil {
		return disk.Report{}, err
	}
	img := &image{layout: *l, f: f}
	if img.state, _, err = readState(f, l.uuid); err != nil {
		return disk.Report{}, err
	}
	// A daemon that holds the image has marked it with this place, unless it is
	// still recovering, or could not tell the place itself.
	trustLive := img.state.trusted(here) || rep.InUse && img.state.where == place{}
	if !trustLive {
		if img.commits, _, _, err = readCommitted(f, l); err != nil {
			return disk.Report{}, err
		}
	}
	words, err := img.found(trustLive)
	for range 3 {
		if err == nil || !rep.InUse {
			break
		}
		// Perhaps an entry was read while it was stored.
		words, err = img.found(trustLive)
	}
	if err != nil {
		return disk.Report{}, err
	}
	rep.Zones = make([]zone.Descriptor, len(words))
	for i, w := range words {
		rep.Zones[i] = l.Zone(i, w)
	}
	return rep, nil
}

// inUse says whether a writer holds the lock on f. To find out it takes the lock
// for an instant, shared; disk.LockFile is prepared for that.
func inUse(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look at the lock: %w", err)
	}
	return false, unix.Flock(int(f.Fd()), unix.LOCK_UN)
}
