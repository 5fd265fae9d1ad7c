package image

import (
	"errors"
	"fmt"
	"os"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
)

// This file is about a superblock and a copy of it that are both whole and differ. The rest
// of the file says which of them is right, where it goes with one only.

// misfitOf says what in the image f does not go with l being its superblock: nil where all
// does. err is that f cannot be read.
func misfitOf(l *format.Layout, f *os.File) (misfit, err error) {
	err = goesWith(l, f)
	if errors.Is(err, disk.ErrDamaged) || errors.Is(err, disk.ErrUnfit) {
		return err, nil
	}
	return nil, err
}

// goesWith is misfit, with both errors in one. It looks at all that says something of the
// superblock: the size of the file; the state blocks and the faults, which have the UUID of
// the image; the tables, which have an entry for each zone, of its kind and capacity, and as
// many active ones as there may be.
func goesWith(l *format.Layout, f *os.File) error {
	size, err := disk.SizeOf(int(f.Fd()))
	if err != nil {
		return err
	}
	if err := l.CheckSize(size); err != nil {
		return err
	}
	if err := l.CheckTables(f); err != nil {
		return err
	}
	if err := goesWithFaults(l, f); err != nil {
		return err
	}
	here, err := format.PlaceOf(f)
	if err != nil {
		return err
	}
	img := &Image{Layout: *l, File: f}
	if img.state, _, err = format.ReadState(f, l.UUID); err != nil {
		return err
	}
	if img.Committed, _, _, err = format.ReadCommitted(f, l); err != nil {
		return err
	}
	words, err := img.found(img.state.TrustsLive(here))
	if err != nil {
		return err
	}
	return l.CheckLimits(words)
}

// goesWithFaults says whether there is a block of faults if, and only if, l says so.
func goesWithFaults(l *format.Layout, f *os.File) error {
	if l.Compat&format.FeatureFaults != 0 {
		_, err := format.ReadFaults(f, l)
		return err
	}
	with := *l
	with.Compat |= format.FeatureFaults
	switch _, err := format.FaultsIn(f, &with); {
	case err == nil || errors.Is(err, format.ErrUnknownFaults):
		return disk.Damagedf("there is a block of faults, and the superblock has none")
	case errors.Is(err, format.ErrDamagedFaults):
		return nil // no block of faults of this image
	default:
		return err
	}
}

// fitting is which of two superblocks that differ the rest of the file goes with, 0 or 1:
// -1 where it goes with both, or with neither. misfits are what speaks against each.
func fitting(f *os.File, supers [2]*format.Layout) (which int, misfits [2]error, err error) {
	for i, l := range supers {
		if misfits[i], err = misfitOf(l, f); err != nil {
			return -1, misfits, err
		}
	}
	switch {
	case misfits[0] == nil && misfits[1] != nil:
		return 0, misfits, nil
	case misfits[0] != nil && misfits[1] == nil:
		return 1, misfits, nil
	case misfits[0] != nil:
		return -1, misfits, nil
	}
	// A file is made as long as its image, and stays so.
	size, err := disk.SizeOf(int(f.Fd()))
	if a, b := supers[0].FileBytes(), supers[1].FileBytes(); err != nil || a == b || size != a && size != b {
		return -1, misfits, err
	}
	for i, l := range supers {
		if size == l.FileBytes() {
			which = i
		} else {
			misfits[i] = disk.Damagedf("the file has %d bytes, and its zones need %d only", size, l.FileBytes())
		}
	}
	return which, misfits, nil
}

// differing chooses between superblocks that are both whole and differ, and writes the
// other one anew. The one that alone goes with the rest of the file is right, and nothing
// else can be asked for. Where both do, or neither does, somebody has to say which: nil.
func (r *repairer) differing(good [2]*format.Layout, blocks [2][]byte) (*format.Layout, error) {
	right, misfits, err := fitting(r.f, good)
	if err != nil {
		return nil, err
	}
	asked := -1
	switch r.mode {
	case RepairSuperblock:
		asked = 0
	case RepairSuperblockCopy:
		asked = 1
	}
	why := "the rest of the file goes with that one only"
	switch {
	case right < 0 && asked < 0:
		return nil, nil
	case right < 0:
		right, why = asked, "as was asked for"
	case right == 1-asked:
		return nil, fmt.Errorf("--repair=%v: the %s does not go with the rest of the file (%w), and the %s does; use --repair alone", r.mode, format.SuperNames[asked], misfits[asked], format.SuperNames[right])
	}
	wrong := 1 - right
	off := [...]int64{format.SuperOff, format.SuperCopyOff}[wrong]
	what := fmt.Sprintf("written anew from the %s: %s; it differed in %s", format.SuperNames[right], why, good[wrong].Differences(good[right]))
	return good[right], r.put(format.SuperNames[wrong], what, blocks[right], off)
}

// differing tells of superblocks that are both whole and differ, and returns the one to go
// on with: nil where nobody knows which.
func (c *checker) differing(good [2]*format.Layout) (*format.Layout, error) {
	right, misfits, err := fitting(c.f, good)
	if err != nil {
		return nil, err
	}
	what := "differs from the superblock in " + good[1].Differences(good[0])
	switch {
	case right >= 0:
		c.found(format.SuperNames[1], "%s; the rest of the file goes with the %s only (not with the other one: %v)", what, format.SuperNames[right], misfits[1-right])
		return good[right], nil
	case misfits[0] == nil:
		what += "; the rest of the file goes with both"
	default:
		what += fmt.Sprintf("; the rest of the file goes with neither (not with the superblock: %v; nor with its copy: %v)", misfits[0], misfits[1])
	}
	c.findings.add(format.SuperNames[1], Finding{Where: format.SuperNames[1], What: what, Remedy: remedySupers})
	return nil, nil
}
