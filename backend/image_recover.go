package backend

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/internal/plant"
)

// recover finds out what the zones are, makes the image consistent and notes
// it as in use. docs/image-format.md has the argument for each step.
func (img *image) recover() error {
	here, err := whereIs(img.f)
	if err != nil {
		return err
	}
	if img.state, _, err = readState(img.f, img.uuid); err != nil {
		return err
	}
	var torn []Finding
	if img.commits, img.seqs, torn, err = readCommitted(img.f, &img.layout); err != nil {
		return err
	}
	trustLive := img.state.trusted(here)
	img.resumable, img.unclean = trustLive, img.state.doubt || !img.state.clean && !img.state.idle
	if img.words, err = img.found(trustLive); err != nil {
		return err
	}
	if err := img.checkLimits(img.words); err != nil {
		return err
	}
	if img.readOnly {
		return nil
	}
	if img.live, err = openLive(img.f, int(img.tableOff-liveOff)); err != nil {
		return err
	}
	// The live table first: in a clean image it says this already, and while the
	// state block names another place nobody trusts it. Once the block names
	// this place it must be right, whenever the daemon is killed.
	if !img.live.storeAll(img.words) {
		return errors.New("write the zone table: the disk under it failed")
	}
	failpoint.Hit(failpoint.Opened)
	clean := img.state.clean
	err = img.takeOver(here, len(torn) > 0)
	switch {
	case err != nil && !clean && !plant.ReportedOnce:
		// It may have been the news that data is gone, which nobody is told again.
		_ = img.distrust()
		return err
	case err != nil || clean || plant.StaleData:
		return err
	}
	return img.punchAbove(img.words)
}

// takeOver notes the image as in use in this place, and makes what it was found to be
// durable.
func (img *image) takeOver(here place, torn bool) error {
	clean := img.state.clean
	if err := img.state.renumber(img.store, img.uuid); err != nil {
		return err
	}
	img.state.idle = !img.unclean
	// From here on the live table may run ahead of the disk, so the image must
	// say that it is in use. Both copies: with one gone bad the other must not
	// say that the image is clean.
	img.state.clean, img.state.where, img.state.pid = false, here, uint32(os.Getpid())
	if img.run() == 0 {
		img.state.run++
	}
	for range 2 {
		if err := img.state.write(img.store, img.uuid); err != nil {
			return fmt.Errorf("mark the image as in use: %w", err)
		}
	}
	failpoint.Hit(failpoint.InUse)
	for n := range img.seqs { // now that a torn copy is no damage
		if err := img.renumber(n); err != nil {
			return err
		}
	}
	if clean {
		return nil
	}
	// What guests were told becomes durable, and then what lies at or above the
	// write pointers, from requests that were never answered, goes away. In
	// this order: a reset that was not committed yet keeps its data until it is.
	if err := img.store.sync(); err != nil {
		return fmt.Errorf("sync after an unclean stop: %w", err)
	}
	if err := img.commit(img.words, img.allBlocks()); err != nil {
		return fmt.Errorf("commit the zone table after an unclean stop: %w", err)
	}
	if torn {
		if err := img.mendTorn(); err != nil {
			return fmt.Errorf("commit the zone table after an unclean stop: %w", err)
		}
	}
	failpoint.Hit(failpoint.Recovered)
	return nil
}

// found is the zone table to go on from: the live one where it can be trusted,
// else the committed one as a drive shows it after a power cycle.
func (img *image) found(trustLive bool) ([]zone.Entry, error) {
	if !trustLive {
		return img.allPowerCycled(img.commits), nil
	}
	words, err := readLive(img.f, &img.layout)
	if err != nil {
		return nil, err
	}
	for i, w := range words {
		if err := w.Verify(&img.Geometry, i); err != nil {
			if img.state.clean {
				return nil, disk.Damagedf("zone table entry %d: %w; run 'zvhost check --repair'", i, err)
			}
			return nil, disk.Damagedf("zone table entry %d: %w; run 'zvhost check', and then 'zvhost check --repair=%v' to take the damaged zones offline, or '--repair=%v' to have them as the last flush left them", i, err, RepairZoneOffline, RepairZoneCommitted)
		}
		words[i] = img.settled(i, w)
	}
	return words, nil
}

// allPowerCycled is the committed table as a drive shows it after a power cycle.
func (l *layout) allPowerCycled(commits []zone.Entry) []zone.Entry {
	words := slices.Clone(commits)
	for i, w := range words {
		words[i] = l.powerCycled(i, w)
	}
	return words
}

// powerCycled is the entry w of zone i after a power cycle.
func (l *layout) powerCycled(i int, w zone.Entry) zone.Entry {
	if w.State().IsActive() {
		return l.settled(i, zone.Pack(i, zone.Closed, w.Written()))
	}
	return w
}

// settled is the entry w of zone i now that no write is in flight any more.
func (l *layout) settled(i int, w zone.Entry) zone.Entry {
	switch s := w.State(); {
	case (s == zone.ImpOpen || s == zone.Closed) && w.Written() == 0:
		return zone.Pack(i, zone.Empty, 0) // opened by a write that was never answered
	case s.IsActive() && w.Written() == l.Capacity(i):
		return zone.Pack(i, zone.Full, w.Written()) // the last write had landed, and one before it had not
	}
	return w
}

// checkLimits says whether more zones are open or active than may be. No crash
// leaves an image like that, so nobody knows what is wrong with it.
func (l *layout) checkLimits(words []zone.Entry) error {
	r := zone.Resources{MaxOpen: l.MaxOpen, MaxActive: l.MaxActive}
	for i, w := range words {
		if err := r.Move(zone.Empty, w.State()); err != nil {
			return disk.Damagedf("zone %d is %v, but there are %w; run 'zvhost check'", i, w.State(), err)
		}
	}
	return nil
}

// back is the state in which zone i comes back that has so many sectors written.
func (l *layout) back(i int, written uint64) zone.State {
	switch written {
	case 0:
		return zone.Empty
	case l.Capacity(i):
		return zone.Full
	}
	return zone.Closed
}
