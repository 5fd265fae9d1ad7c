package image

import (
	"errors"
	"fmt"
	"os"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/internal/plant"
)

// recover finds out what the zones are, makes the image consistent and notes
// it as in use. docs/image-format.md has the argument for each step.
func (img *Image) recover() error {
	here, err := format.PlaceOf(img.File)
	if err != nil {
		return err
	}
	if img.state, _, err = format.ReadState(img.File, img.UUID); err != nil {
		return err
	}
	var torn []Finding
	if img.Committed, img.seqs, torn, err = format.ReadCommitted(img.File, &img.Layout); err != nil {
		return err
	}
	trustLive := img.state.TrustsLive(here)
	img.Resumable, img.Unclean = trustLive, img.state.MayHaveRun || !img.state.Clean && !img.state.Idle
	if img.Found, err = img.found(trustLive); err != nil {
		return err
	}
	if err := img.CheckLimits(img.Found); err != nil {
		return err
	}
	if img.ReadOnly {
		return nil
	}
	if img.Live, err = openLive(img.File, int(img.TableOff-format.LiveOff)); err != nil {
		return err
	}
	// The live table first: in a clean image it says this already, and while the
	// state block names another place nobody trusts it. Once the block names
	// this place it must be right, whenever the daemon is killed.
	if !img.Live.storeAll(img.Found) {
		return errors.New("write the zone table: the disk under it failed")
	}
	failpoint.Hit(failpoint.Opened)
	clean := img.state.Clean
	err = img.takeOver(here, len(torn) > 0)
	switch {
	case err != nil && !clean && !plant.ReportedOnce:
		// It may have been the news that data is gone, which nobody is told again.
		_ = img.Distrust()
		return err
	case err != nil || clean || plant.StaleData:
		return err
	}
	return img.punchAbove(img.Found)
}

// takeOver notes the image as in use in this place, and makes what it was found to be
// durable.
func (img *Image) takeOver(here format.Place, torn bool) error {
	clean := img.state.Clean
	if err := img.state.Renumber(img.Store, img.UUID); err != nil {
		return err
	}
	img.state.Idle = !img.Unclean
	// From here on the live table may run ahead of the disk, so the image must
	// say that it is in use. Both copies: with one gone bad the other must not
	// say that the image is clean.
	img.state.Clean, img.state.Where, img.state.PID = false, here, uint32(os.Getpid())
	if img.Run() == 0 {
		img.state.Run++
	}
	for range 2 {
		if err := img.state.Write(img.Store, img.UUID); err != nil {
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
	if err := img.Store.Sync(); err != nil {
		return fmt.Errorf("sync after an unclean stop: %w", err)
	}
	if err := img.Commit(img.Found, img.allBlocks()); err != nil {
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
func (img *Image) found(trustLive bool) ([]zone.Entry, error) {
	if !trustLive {
		return img.AllPowerCycled(img.Committed), nil
	}
	words, err := format.ReadLive(img.File, &img.Layout)
	if err != nil {
		return nil, err
	}
	for i, w := range words {
		if err := w.Verify(&img.Geometry, i); err != nil {
			if img.state.Clean {
				return nil, disk.Damagedf("zone table entry %d: %w; run 'zvhost check --repair'", i, err)
			}
			return nil, disk.Damagedf("zone table entry %d: %w; run 'zvhost check', and then 'zvhost check --repair=%v' to take the damaged zones offline, or '--repair=%v' to have them as the last flush left them", i, err, RepairZoneOffline, RepairZoneCommitted)
		}
		words[i] = img.Settled(i, w)
	}
	return words, nil
}
