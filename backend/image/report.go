package image

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// ReadReport reads the zones of the image f beside a daemon that may serve it. It writes
// nothing and holds no lock. It returns an error if f is no image, is cut short, or is
// damaged.
func ReadReport(f *os.File) (disk.Report, error) {
	l, err := format.ReadSuper(f)
	if err != nil {
		return disk.Report{}, err
	}
	rep := disk.Report{Info: disk.Describe(&l.Geometry, false), UUID: l.UUID}
	if rep.InUse, err = inUse(f); err != nil {
		return disk.Report{}, err
	}
	if size, err := disk.SizeOf(int(f.Fd())); err != nil {
		return disk.Report{}, err
	} else if err := l.CheckSize(size); err != nil {
		return disk.Report{}, err
	}
	if err := l.CheckTables(f); err != nil {
		return disk.Report{}, fmt.Errorf("%w; run 'zvhost check'", err)
	}
	here, err := format.PlaceOf(f)
	if err != nil {
		return disk.Report{}, err
	}
	img := &Image{Layout: *l, File: f}
	if img.state, _, err = format.ReadState(f, l.UUID); err != nil {
		return disk.Report{}, err
	}
	// A daemon that holds the image has marked it with this place, unless it is
	// still recovering, or could not tell the place itself.
	trustLive := img.state.TrustsLive(here) || rep.InUse && img.state.Where == format.Place{}
	if !trustLive {
		if img.Committed, _, _, err = format.ReadCommitted(f, l); err != nil {
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
