package backend

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/zvhost/zvhost/backend/disk"
)

// This file is about a superblock and a copy of it that are both whole and differ. The rest
// of the file says which of them is right, where it goes with one only.

// differences names the fields in which the superblocks l and o differ, with the values of both.
func (l *layout) differences(o *layout) string {
	var list []string
	for _, f := range []struct {
		name string
		l, o any
	}{
		{"UUID", fmt.Sprintf("%x", l.uuid), fmt.Sprintf("%x", o.uuid)},
		{"capacity", l.CapacitySectors, o.CapacitySectors},
		{"zone size", l.ZoneSectors, o.ZoneSectors},
		{"zone capacity", l.ZoneCapacitySectors, o.ZoneCapacitySectors},
		{"conventional zones", l.ConventionalZones, o.ConventionalZones},
		{"block size", l.BlockSize, o.BlockSize},
		{"open zones limit", l.MaxOpen, o.MaxOpen},
		{"active zones limit", l.MaxActive, o.MaxActive},
		{"append limit", l.MaxAppendSectors, o.MaxAppendSectors},
		{"compatible features", l.compat, o.compat},
		{"time of creation", l.created, o.created},
	} {
		if f.l != f.o {
			list = append(list, fmt.Sprintf("%s (%v, %v)", f.name, f.l, f.o))
		}
	}
	return strings.Join(list, ", ")
}

// misfit says what in the image f does not go with l being its superblock: nil where all
// does. err is that f cannot be read.
func (l *layout) misfit(f *os.File) (misfit, err error) {
	err = l.goesWith(f)
	if errors.Is(err, disk.ErrDamaged) || errors.Is(err, disk.ErrUnfit) {
		return err, nil
	}
	return nil, err
}

// goesWith is misfit, with both errors in one. It looks at all that says something of the
// superblock: the size of the file; the state blocks and the faults, which have the UUID of
// the image; the tables, which have an entry for each zone, of its kind and capacity, and as
// many active ones as there may be.
func (l *layout) goesWith(f *os.File) error {
	size, err := disk.SizeOf(int(f.Fd()))
	if err != nil {
		return err
	}
	if err := l.checkSize(size); err != nil {
		return err
	}
	if err := l.checkTables(f); err != nil {
		return err
	}
	if err := l.goesWithFaults(f); err != nil {
		return err
	}
	here, err := whereIs(f)
	if err != nil {
		return err
	}
	img := &image{layout: *l, f: f}
	if img.state, _, err = readState(f, l.uuid); err != nil {
		return err
	}
	if img.commits, _, _, err = readCommitted(f, l); err != nil {
		return err
	}
	words, err := img.found(img.state.trusted(here))
	if err != nil {
		return err
	}
	return l.checkLimits(words)
}

// goesWithFaults says whether there is a block of faults if, and only if, l says so.
func (l *layout) goesWithFaults(f *os.File) error {
	if l.compat&featureFaults != 0 {
		_, err := readFaults(f, l)
		return err
	}
	with := *l
	with.compat |= featureFaults
	switch _, err := faultsIn(f, &with); {
	case err == nil || errors.Is(err, errUnknownFaults):
		return disk.Damagedf("there is a block of faults, and the superblock has none")
	case errors.Is(err, errDamagedFaults):
		return nil // no block of faults of this image
	default:
		return err
	}
}

// fitting is which of two superblocks that differ the rest of the file goes with, 0 or 1:
// -1 where it goes with both, or with neither. misfits are what speaks against each.
func fitting(f *os.File, supers [2]*layout) (which int, misfits [2]error, err error) {
	for i, l := range supers {
		if misfits[i], err = l.misfit(f); err != nil {
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
	if a, b := supers[0].fileBytes(), supers[1].fileBytes(); err != nil || a == b || size != a && size != b {
		return -1, misfits, err
	}
	for i, l := range supers {
		if size == l.fileBytes() {
			which = i
		} else {
			misfits[i] = disk.Damagedf("the file has %d bytes, and its zones need %d only", size, l.fileBytes())
		}
	}
	return which, misfits, nil
}

var superNames = [2]string{"superblock", "copy of the superblock"}

// differing chooses between superblocks that are both whole and differ, and writes the
// other one anew. The one that alone goes with the rest of the file is right, and nothing
// else can be asked for. Where both do, or neither does, somebody has to say which: nil.
func (r *repairer) differing(good [2]*layout, blocks [2][]byte) (*layout, error) {
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
		return nil, fmt.Errorf("--repair=%v: the %s does not go with the rest of the file (%w), and the %s does; use --repair alone", r.mode, superNames[asked], misfits[asked], superNames[right])
	}
	wrong := 1 - right
	off := [...]int64{superOff, superCopyOff}[wrong]
	what := fmt.Sprintf("written anew from the %s: %s; it differed in %s", superNames[right], why, good[wrong].differences(good[right]))
	return good[right], r.put(superNames[wrong], what, blocks[right], off)
}

// differing tells of superblocks that are both whole and differ, and returns the one to go
// on with: nil where nobody knows which.
func (c *checker) differing(good [2]*layout) (*layout, error) {
	right, misfits, err := fitting(c.f, good)
	if err != nil {
		return nil, err
	}
	what := "differs from the superblock in " + good[1].differences(good[0])
	switch {
	case right >= 0:
		c.found(superNames[1], "%s; the rest of the file goes with the %s only (not with the other one: %v)", what, superNames[right], misfits[1-right])
		return good[right], nil
	case misfits[0] == nil:
		what += "; the rest of the file goes with both"
	default:
		what += fmt.Sprintf("; the rest of the file goes with neither (not with the superblock: %v; nor with its copy: %v)", misfits[0], misfits[1])
	}
	c.findings.add(superNames[1], Finding{Where: superNames[1], What: what, Remedy: remedySupers})
	return nil, nil
}
