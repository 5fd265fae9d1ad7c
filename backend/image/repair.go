package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
)

// A RepairMode is what Repair may do.
type RepairMode uint8

// The modes.
const (
	// RepairSafe mends what stands in the image twice, from its good twin: nothing is lost.
	RepairSafe RepairMode = iota
	// RepairZoneOffline also takes zones offline of which the entry in the zone table is
	// damaged and stands nowhere else. What they hold stays.
	RepairZoneOffline
	// RepairZoneCommitted also has such zones, or all where both state blocks are damaged,
	// be what their last flush has left of them. What was written since is lost.
	RepairZoneCommitted
	// RepairSuperblock and RepairSuperblockCopy also choose which of the superblock and its
	// copy counts where both are whole and differ, and the rest of the file does not say.
	RepairSuperblock
	RepairSuperblockCopy
)

var repairModes = [...]string{RepairSafe: "safe", RepairZoneOffline: "zone-offline", RepairZoneCommitted: "zone-committed",
	RepairSuperblock: "superblock", RepairSuperblockCopy: "superblock-copy"}

// String is the mode as --repair takes it.
func (m RepairMode) String() string { return repairModes[m] }

// ParseRepairMode reads what String writes. The error names the modes that there are.
func ParseRepairMode(s string) (RepairMode, error) {
	if i := slices.Index(repairModes[:], s); i >= 0 {
		return RepairMode(i), nil
	}
	return 0, fmt.Errorf("%q is no way to repair: want %s", s, strings.Join(repairModes[:], ", "))
}

// The remedies of findings that RepairSafe leaves.
var (
	remedySupers    = fmt.Sprintf("zvhost check FILE --repair=%v (it counts, and its copy is written anew) or --repair=%v (the copy counts)", RepairSuperblock, RepairSuperblockCopy)
	remedyZones     = fmt.Sprintf("zvhost check FILE --repair=%v (the zone is taken offline, and keeps what it holds) or --repair=%v (it is what its last flush left of it)", RepairZoneOffline, RepairZoneCommitted)
	remedyCommitted = fmt.Sprintf("zvhost check FILE --repair=%v (all zones are what their last flush left of them, as after a power cut)", RepairZoneCommitted)
)

// Repair mends what is damaged in the image at path and stands there twice: a
// superblock, a state block, a block of the committed table, from its good twin; an entry
// of the live table of an image that was closed cleanly, from the committed one. Of a
// superblock and a copy that are both whole and differ the one counts that goes with the
// rest of the file. A damaged block of faults is emptied. What has no good twin is dealt with as mode says, and else
// left as it is, for nobody to guess; Check tells.
// It returns what it mended, nothing when there was nothing to mend. It fails when it
// cannot look or cannot write, and leaves an image in use alone.
func Repair(path string, mode RepairMode) (mended []Finding, err error) {
	kind, err := Probe(path)
	if err != nil {
		return nil, err
	}
	if kind != disk.KindImage {
		return nil, fmt.Errorf("%s: %w", path, format.ErrNotImage)
	}
	if err := CheckInFile(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, disk.CannotOpen("image", path, err)
	}
	r := &repairer{f: f, to: FileStore{FD: int(f.Fd()), Syncs: int(f.Fd())}, mode: mode}
	if err = disk.LockFile(f, false); err == nil {
		err = r.run()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return r.mended.all(), fmt.Errorf("image %s: %w", path, err)
	}
	return r.mended.all(), nil
}

type repairer struct {
	f      *os.File
	to     Store
	mode   RepairMode
	mended findings
}

// did notes what was mended.
func (r *repairer) did(kind, where, text string, args ...any) {
	r.mended.add(kind, Finding{Where: where, What: fmt.Sprintf(text, args...)})
}

// put writes a block, durably, and notes it.
func (r *repairer) put(where, what string, b []byte, off int64) error {
	if err := r.to.WriteStable(b, off); err != nil {
		return fmt.Errorf("write the %s: %w", where, err)
	}
	r.did(where, where, "%s", what)
	return nil
}

func (r *repairer) run() error {
	l, err := r.supers()
	if l == nil || err != nil {
		return err
	}
	if size, err := disk.SizeOf(int(r.f.Fd())); err != nil || size < l.FileBytes() {
		return err // cut short, or the superblock is wrong
	}
	if l.CheckTables(r.f) != nil {
		return nil
	}
	if err := r.faults(l); err != nil {
		return err
	}
	s, err := r.states(l)
	if err != nil || s == nil {
		return err
	}
	return r.tables(l, s)
}

// supers mends one superblock from the other, and returns what they say; nil
// when neither is good, or both are and nobody knows which of them is right.
func (r *repairer) supers() (*format.Layout, error) {
	var blocks [2][]byte
	var good [2]*format.Layout
	for i, off := range [...]int64{format.SuperOff, format.SuperCopyOff} {
		b := make([]byte, format.SuperBytes)
		if n, _ := r.f.ReadAt(b, off); n < len(b) {
			return nil, nil // cut short
		}
		blocks[i] = b
		if l, err := format.DecodeSuper(b); err == nil {
			good[i] = l
		}
	}
	switch {
	case good[0] != nil && good[1] != nil:
		if *good[0] != *good[1] {
			return r.differing(good, blocks)
		}
		return good[0], nil
	case good[0] != nil && damagedSuper(blocks[1]):
		return good[0], r.put("copy of the superblock", "written anew from the superblock", blocks[0], format.SuperCopyOff)
	case good[1] != nil && damagedSuper(blocks[0]):
		return good[1], r.put("superblock", "written anew from its copy", blocks[1], format.SuperOff)
	}
	return nil, nil
}

// damagedSuper says that b is no superblock of any version: one of a newer
// version, or with features that are not known here, is whole and stays.
func damagedSuper(b []byte) bool {
	return string(b[:len(format.Magic)]) != format.Magic || format.Checksum(b, 12) != binary.LittleEndian.Uint32(b[12:])
}

// faults empties a block of faults that is damaged. There is no other one, but
// nothing of the guests' hangs on it either.
func (r *repairer) faults(l *format.Layout) error {
	_, err := format.ReadFaults(r.f, l)
	if !errors.Is(err, format.ErrDamagedFaults) {
		return nil // whole, or beyond what this zvhost knows of faults
	}
	b, err := format.EncodeFaults(nil, l.UUID)
	if err != nil {
		return err
	}
	return r.put("faults", "damaged, and nowhere else: the image has none now", b, format.FaultsOff)
}

// states mends one state block from the other, and returns what they say; nil when
// neither is good, for then nobody knows how the image was left.
func (r *repairer) states(l *format.Layout) (*format.StateBlock, error) {
	s, bad, err := format.ReadState(r.f, l.UUID)
	switch {
	case len(bad) == 2 && r.mode != RepairZoneCommitted:
		return nil, nil
	case len(bad) == 2:
		// In use, and nobody knows by whom: the live table is not trusted.
		s = format.StateBlock{Run: rand.Uint64()}
		for _, b := range bad {
			if err := s.Write(r.to, l.UUID); err != nil {
				return nil, fmt.Errorf("write the %s: %w", b.Where, err)
			}
			r.did(b.Where, b.Where, "written anew: the image is what was committed last, as after a power cut")
		}
		return &s, nil
	case err != nil:
		return nil, err
	case len(bad) == 0:
		return &s, s.Renumber(r.to, l.UUID)
	}
	// The next one goes where the bad one is, and says the same.
	write := s.Write
	if s.Seq >= format.LateSeq {
		write = s.Renumber
	}
	if err := write(r.to, l.UUID); err != nil {
		return nil, fmt.Errorf("write the %s: %w", bad[0].Where, err)
	}
	r.did(bad[0].Where, bad[0].Where, "written anew from the other one")
	return &s, nil
}
