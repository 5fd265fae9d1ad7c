package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// This file repairs the zone tables. Which of them counts, and when both say the same, is
// in docs/image-format.md.

// A tableRepair is both tables of an image while they are repaired.
type tableRepair struct {
	*Image // its file, layout, store, commits and seqs
	r      *repairer
	state  *format.StateBlock // how the image was left
	torn   [][2]bool          // copies of each block of the committed table that are damaged
	live   []zone.Entry       // nil: the live table does not count
	bad    []int              // zones of which the live entry is damaged
	limits zone.Resources
}

// tables mends both tables of an image that was left as s says.
func (r *repairer) tables(l *format.Layout, s *format.StateBlock) error {
	t := &tableRepair{r: r, Image: &Image{File: r.f, Layout: *l, Store: r.to}, state: s}
	known, err := t.readCommits()
	if err != nil || !known {
		return err
	}
	if err := t.readLive(); err != nil {
		return err
	}
	if err := t.mendLive(); err != nil {
		return err
	}
	synced := false
	for n := range t.torn {
		words, why, err := t.contents(n)
		if err != nil {
			return err
		} else if words == nil {
			continue
		}
		if !synced && !s.Clean {
			// The live table may say more than was ever synced.
			if err := r.to.Sync(); err != nil {
				return err
			}
			synced = true
		}
		if err := t.mendBlock(n, words, why); err != nil {
			return err
		}
	}
	return nil
}

// readCommits reads the committed table; a block of which both copies are damaged has
// number 0. known is false when a whole block says what cannot be: nobody knows better.
func (t *tableRepair) readCommits() (known bool, err error) {
	t.Committed, t.seqs, t.torn = make([]zone.Entry, t.Zones()), make([]uint64, t.Blocks()), make([][2]bool, t.Blocks())
	for n := range t.seqs {
		part := t.CommittedBlock(n)
		var damaged [2]error
		if t.seqs[n], damaged, err = format.ReadBlock(t.File, &t.Layout, n, part); err != nil {
			return false, err
		}
		t.torn[n] = [2]bool{damaged[0] != nil, damaged[1] != nil}
		for i, w := range part {
			if t.seqs[n] != 0 && w.Verify(&t.Geometry, n*format.BlockZones+i) != nil {
				return false, nil
			}
		}
	}
	return true, nil
}

// readLive reads the live table, if it counts.
func (t *tableRepair) readLive() error {
	here, err := format.PlaceOf(t.File)
	if err != nil || !t.state.TrustsLive(here) {
		return err
	}
	if t.live, err = format.ReadLive(t.File, &t.Layout); err != nil {
		return err
	}
	t.limits = zone.Resources{MaxOpen: t.MaxOpen, MaxActive: t.MaxActive}
	for i, w := range t.live {
		if w.Verify(&t.Geometry, i) != nil {
			t.bad = append(t.bad, i)
			continue
		}
		_ = t.limits.Move(zone.Empty, w.State()) // if there are too many they stay
	}
	return nil
}

// mendLive deals with damaged entries of the live table, and leaves those in bad that stay.
func (t *tableRepair) mendLive() error {
	var left []int
	pages := map[int]bool{} // to be written
	for _, i := range t.bad {
		w, what, err := t.entryFor(i)
		switch {
		case err != nil:
			return err
		case what == "":
			left = append(left, i)
			continue
		}
		if err := t.limits.Move(zone.Empty, w.State()); err != nil {
			return fmt.Errorf("zone %d cannot be %v with %d sectors written, as it was committed: there are %w by now; use --repair=%v", i, w.State(), w.Written(), err, RepairZoneOffline)
		}
		t.live[i] = w
		pages[8*i/format.BlockBytes] = true
		t.r.did("live zone table", fmt.Sprintf("live zone table, zone %d", i), "%s", what)
	}
	t.bad = left
	table := make([]byte, 8*len(t.live))
	if len(pages) > 0 {
		if _, err := t.File.ReadAt(table, format.LiveOff); err != nil { // what stays damaged stays as it is
			return err
		}
	}
	for i, w := range t.live {
		if pages[8*i/format.BlockBytes] && w.Verify(&t.Geometry, i) == nil {
			binary.LittleEndian.PutUint64(table[8*i:], uint64(w))
		}
	}
	for page := range pages {
		part := table[page*format.BlockBytes : min((page+1)*format.BlockBytes, len(table))]
		if err := t.Store.WriteStable(part, format.LiveOff+int64(page)*format.BlockBytes); err != nil {
			return fmt.Errorf("write the live zone table: %w", err)
		}
	}
	return nil
}

// entryFor is what becomes of zone i, whose live entry is damaged, and what to say of it;
// nothing where the entry stays as it is.
func (t *tableRepair) entryFor(i int) (w zone.Entry, what string, err error) {
	n := i / format.BlockZones
	committed := t.seqs[n] != 0
	switch {
	case committed && t.state.Clean && t.torn[n] == [2]bool{}:
		w = t.Committed[i]
		return w, "written anew from the committed zone table, which says the same of an image that was closed cleanly", nil
	case committed && t.r.mode == RepairZoneCommitted:
		w = t.PowerCycled(i, t.Committed[i])
		return w, fmt.Sprintf("%v with %d sectors written, as the last flush left it: what was written to it since is cleared when the image is opened", w.State(), w.Written()), nil
	case t.r.mode == RepairZoneOffline:
		if w, err = t.offline(i); err != nil {
			return 0, "", err
		}
		return w, fmt.Sprintf("taken offline: what it holds, %d sectors, stays; 'zvhost zone set-state FILE %d writable' brings it back with that", w.Written(), i), nil
	}
	return 0, "", nil
}

// offline is the entry of zone i as an offline one. It has everything written that
// stands in the file: what is behind the write pointer is cleared when the image is opened.
func (t *tableRepair) offline(i int) (zone.Entry, error) {
	if t.Conventional(i) {
		return zone.Pack(i, zone.Offline, 0), nil
	}
	fd := int(t.File.Fd())
	start := t.Offset(uint64(i) * t.ZoneSectors)
	end := start + int64(t.Capacity(i))<<disk.SectorShift
	behind := start
	for at := start; at < end; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
			break
		}
		if err == nil {
			at, err = unix.Seek(fd, data, unix.SEEK_HOLE)
		}
		if err != nil {
			return 0, fmt.Errorf("look for what zone %d holds: %w", i, err)
		}
		behind = min(at, end)
	}
	written := uint64(disk.AlignUp(behind-start, int64(t.BlockSize))) >> disk.SectorShift
	if n := i / format.BlockZones; t.seqs[n] != 0 {
		written = max(written, t.Committed[i].Written())
	}
	return zone.Pack(i, zone.Offline, min(written, t.Capacity(i))), nil
}

// contents is what block n of the committed table has to say, and where that comes from;
// nil where it is whole, or nobody knows.
func (t *tableRepair) contents(n int) (words []zone.Entry, why string, err error) {
	first, whole := n*format.BlockZones, t.live != nil
	last := first + len(t.CommittedBlock(n))
	for _, i := range t.bad {
		whole = whole && (i < first || i >= last)
	}
	lost := t.seqs[n] == 0
	switch {
	case t.torn[n] == [2]bool{}:
		return nil, "", nil
	case !lost && !t.state.Clean:
		// A power cut while the newer copy was written leaves just that.
		return t.CommittedBlock(n), "written anew from the other one", nil
	case !lost && whole:
		// The good copy may be the older one. The live table says what the newer one did.
		return t.live[first:last], "written anew from the other one", nil
	case lost && whole:
		words = slices.Clone(t.live[first:last])
		for i, w := range words {
			words[i] = t.Settled(first+i, w)
		}
		return words, "written anew from the live zone table", nil
	case lost && t.live == nil && t.r.mode == RepairZoneOffline:
		for i := first; i < last && err == nil; i++ {
			var w zone.Entry
			w, err = t.offline(i)
			words = append(words, w)
		}
		return words, fmt.Sprintf("nothing is known of its zones, %d to %d: taken offline, and what they hold stays; 'zvhost zone set-state FILE ZONE writable' brings one back", first, last-1), err
	}
	return nil, "", nil
}

// mendBlock writes words over the damaged copies of block n of the committed table.
func (t *tableRepair) mendBlock(n int, words []zone.Entry, why string) error {
	// The next copy goes where the damaged one is. Both are written where both are damaged,
	// and where their numbers begin anew.
	writes := 1
	switch {
	case t.seqs[n] == 0:
		writes = 2
	case t.seqs[n] >= format.LateSeq:
		t.seqs[n], writes = format.EarlySeq(t.seqs[n]), 2
	}
	for range writes {
		if err := t.commitBlock(n, words); err != nil {
			return fmt.Errorf("write the committed zone table, block %d: %w", n, err)
		}
	}
	for c, torn := range t.torn[n] {
		if torn {
			t.r.did("committed zone table", format.CopyName(n, c), "%s", why)
		}
	}
	return nil
}
