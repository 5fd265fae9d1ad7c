package backend

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Report is the zones of an image at one moment.
type Report struct {
	Info  Info
	Zones []Zone
	// InUse says that a daemon has the image open for writing.
	InUse bool
	// UUID identifies the image.
	UUID [16]byte
}

// ReadReport reads the zones of the image at path, without disturbing a daemon
// that serves it: it takes no lock and writes nothing. Each zone is as it was
// at some instant during the call.
func ReadReport(path string) (Report, error) {
	kind, err := Probe(path)
	if err != nil {
		return Report{}, err
	}
	switch kind {
	case KindPlain:
		return Report{}, fmt.Errorf("%s is an ordinary disk: it has no zones to report", path)
	case KindZonedDevice:
		return Report{}, fmt.Errorf("%s is a zoned block device, which this version of zvhost cannot read; use blkzone report", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return Report{}, fmt.Errorf("open the image: %w", err)
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
	rep := Report{Info: l.info(false), Zones: make([]Zone, l.Zones()), UUID: l.uuid}
	if rep.InUse, err = inUse(f); err != nil {
		return Report{}, err
	}
	img := &image{layout: *l, f: f}
	trustLive := rep.InUse
	if !trustLive {
		here, err := whereIs(f)
		if err != nil {
			return Report{}, err
		}
		if img.state, _, err = readState(f, l.uuid); err != nil {
			return Report{}, err
		}
		trustLive = img.state.clean || img.state.where.same(here)
	}
	if !trustLive {
		if img.commits, _, _, err = readCommitted(f, l); err != nil {
			return Report{}, err
		}
	}
	words, err := img.found(trustLive)
	if err != nil {
		return Report{}, err
	}
	for i, w := range words {
		rep.Zones[i] = l.zone(i, w)
	}
	return rep, nil
}

// inUse says whether a writer holds the lock on f.
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
