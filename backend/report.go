package backend

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// Report is the zones of an image, or of a zoned block device, at one moment.
type Report struct {
	Info  disk.Info
	Zones []zone.Descriptor
	// InUse says that a daemon has the image, or some of the zones, open for
	// writing.
	InUse bool
	// UUID identifies the image; zero for a device.
	UUID [16]byte
}

// ReadReport reads the zones of the image at path, without disturbing a daemon
// that serves it or is about to: it writes nothing, and keeps no lock. Each zone
// is as it was at some instant during the call.
func ReadReport(path string) (Report, error) {
	kind, err := Probe(path)
	if err != nil {
		return Report{}, err
	}
	switch kind {
	case disk.KindPlain:
		return Report{}, disk.Unfitf("%s is an ordinary disk: it has no zones to report", path)
	case disk.KindZonedDevice:
		return ReadDriveReport(path, nil)
	}
	f, err := os.Open(path)
	if err != nil {
		return Report{}, disk.CannotOpen("image", path, err)
	}
	defer f.Close()
	rep, err := readReport(f)
	if err != nil {
		return Report{}, fmt.Errorf("image %s: %w", path, err)
	}
	return rep, nil
}

func readReport(f *os.File) (Report, error) {
	l, err := readSuper(f)
	if err != nil {
		return Report{}, err
	}
	rep := Report{Info: describe(&l.Geometry, false), UUID: l.uuid}
	if rep.InUse, err = inUse(f); err != nil {
		return Report{}, err
	}
	if size, err := disk.SizeOf(int(f.Fd())); err != nil {
		return Report{}, err
	} else if err := l.checkSize(size); err != nil {
		return Report{}, err
	}
	if err := l.checkTables(f); err != nil {
		return Report{}, fmt.Errorf("%w; run 'zvhost check'", err)
	}
	here, err := whereIs(f)
	if err != nil {
		return Report{}, err
	}
	img := &image{layout: *l, f: f}
	if img.state, _, err = readState(f, l.uuid); err != nil {
		return Report{}, err
	}
	// A daemon that holds the image has marked it with this place, unless it is
	// still recovering, or could not tell the place itself.
	trustLive := img.state.trusted(here) || rep.InUse && img.state.where == place{}
	if !trustLive {
		if img.commits, _, _, err = readCommitted(f, l); err != nil {
			return Report{}, err
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
		return Report{}, err
	}
	rep.Zones = make([]zone.Descriptor, len(words))
	for i, w := range words {
		rep.Zones[i] = l.Zone(i, w)
	}
	return rep, nil
}

// inUse says whether a writer holds the lock on f. To find out it takes the lock
// for an instant, shared; lockFile is prepared for that.
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
