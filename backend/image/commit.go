package image

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// A Store is how an image changes its file, but for the mapped live table and
// the guests' own data, which an engine moves. It is an interface so that tests
// can put a disk under the image that fails, or that forgets at a power cut
// what was not synced.
type Store interface {
	// Sync makes everything durable that was written to the file before.
	Sync() error
	// WriteStable writes b at off, durable when it returns. It does not wait for
	// other dirty data of the file.
	WriteStable(b []byte, off int64) error
	// Wipe makes n bytes from off on read as zeroes. It is not durable before
	// the next sync.
	Wipe(off, n int64) error
}

// FileStore is the store of an image that stands in a file.
type FileStore struct {
	FD    int
	Syncs int // the same file: see disk.OpenSyncs
}

// Sync implements Store.
func (s FileStore) Sync() error {
	return engine.Retry(func() error { return unix.Fdatasync(s.Syncs) })
}

// WriteStable implements Store.
func (s FileStore) WriteStable(b []byte, off int64) error {
	var n int
	err := engine.Retry(func() (err error) {
		n, err = unix.Pwritev2(s.FD, [][]byte{b}, off, unix.RWF_DSYNC)
		return err
	})
	if err == nil && n != len(b) {
		err = unix.EIO // a block of 4 KiB that was written before is written whole, or the disk is ill
	}
	return err
}

// Wipe implements Store. It punches a hole, or writes zeroes where the file system has no
// holes.
func (s FileStore) Wipe(off, n int64) error {
	err := engine.PunchHoleAt(s.FD, off, n)
	if err == unix.EOPNOTSUPP {
		err = engine.ZeroRangeAt(s.FD, off, n)
	}
	return err
}

// Commit makes words durable, in the blocks of the table that are named. What
// they say must have been synced before. On an error the caller has to try
// again: some blocks may be new, some old.
//
// A power cut may come between any two blocks, and the limit on active zones
// has to hold all the same (btrfs, for one, mounts no disk that exceeds it). So
// zones stop being active first, in all blocks, before others start.
func (img *Image) Commit(words []zone.Entry, blocks []int) error {
	if img.MaxActive != 0 && len(blocks) > 1 {
		var part [format.BlockZones]zone.Entry
		for _, n := range blocks {
			was := img.CommittedBlock(n)
			if !mixReleases(part[:len(was)], was, words[n*format.BlockZones:]) {
				continue
			}
			if err := img.commitBlock(n, part[:len(was)]); err != nil {
				return err
			}
		}
	}
	for _, n := range blocks {
		part := words[n*format.BlockZones:][:len(img.CommittedBlock(n))]
		if slices.Equal(part, img.CommittedBlock(n)) {
			continue
		}
		if err := img.commitBlock(n, part); err != nil {
			return err
		}
	}
	return nil
}

// mixReleases fills part with the entries of to, but with those of was where a
// zone becomes active only in to. It reports whether any zone stops being
// active.
func mixReleases(part, was, to []zone.Entry) (releases bool) {
	for i, w := range was {
		part[i] = to[i]
		switch before, after := w.State().IsActive(), to[i].State().IsActive(); {
		case before && !after:
			releases = true
		case after && !before:
			part[i] = w
		}
	}
	return releases
}

// CommittedBlock are the entries of block n of the committed table.
func (img *Image) CommittedBlock(n int) []zone.Entry {
	return img.Committed[n*format.BlockZones : min((n+1)*format.BlockZones, len(img.Committed))]
}

// allBlocks are the numbers of all blocks of the committed table.
func (img *Image) allBlocks() []int {
	blocks := make([]int, img.Blocks())
	for n := range blocks {
		blocks[n] = n
	}
	return blocks
}

// commitBlock writes block n, with words as its entries, over its older copy
// and makes that durable.
func (img *Image) commitBlock(n int, words []zone.Entry) error {
	b := img.block[:]
	seq := img.seqs[n] + 1
	format.EncodeBlock(b, n, seq, words)
	if err := img.Store.WriteStable(b, img.CopyOff(n, seq)); err != nil {
		return err
	}
	img.seqs[n] = seq
	copy(img.Committed[n*format.BlockZones:], words)
	return nil
}

// renumber has the numbers of block n of the committed table begin anew where they have
// come far: see lateSeq.
func (img *Image) renumber(n int) error {
	if img.seqs[n] < format.LateSeq {
		return nil
	}
	img.seqs[n] = format.EarlySeq(img.seqs[n])
	for range 2 {
		if err := img.commitBlock(n, img.CommittedBlock(n)); err != nil {
			return fmt.Errorf("number block %d of the committed zone table anew: %w", n, err)
		}
	}
	return nil
}

// mendTorn writes the copies of blocks anew that a power cut tore, where no
// commit has done it by now: torn copies are no damage in an image that is in
// use, but in one that is closed cleanly they would be.
func (img *Image) mendTorn() error {
	var words [format.BlockZones]zone.Entry
	for n := range img.seqs {
		b := make([]byte, format.BlockBytes)
		if _, err := img.File.ReadAt(b, img.CopyOff(n, img.seqs[n]+1)); err != nil {
			return err
		}
		part := words[:len(img.CommittedBlock(n))]
		if seq, err := format.DecodeBlock(b, n, part); err == nil && seq < img.seqs[n] {
			continue
		}
		copy(part, img.CommittedBlock(n))
		if err := img.commitBlock(n, part); err != nil {
			return err
		}
	}
	return nil
}

// punchAbove makes everything that stands in the file at or above the write
// pointers in words go away. It asks the file system where data is, so it costs
// nothing for zones that hold none.
func (img *Image) punchAbove(words []zone.Entry) error {
	fd := int(img.File.Fd())
	zoneBytes := int64(img.ZoneSectors) << disk.SectorShift
	for at := img.Offset(uint64(img.ConventionalZones) * img.ZoneSectors); at < img.FileBytes(); {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // nothing but holes from here on
		} else if err != nil {
			return fmt.Errorf("look for data above the write pointers: %w", err)
		} else if data >= img.FileBytes() {
			return nil // the file may be longer than the image; that part is not ours
		}
		i := (data - img.DataOff) / zoneBytes
		start := img.DataOff + i*zoneBytes
		end := min(start+zoneBytes, img.FileBytes())
		above := start + int64(words[i].Written())<<disk.SectorShift
		if data < above {
			at = above
			continue
		}
		// An offline zone too: it may come back.
		if err := img.Store.Wipe(data, end-data); err != nil {
			return fmt.Errorf("clear zone %d above its write pointer: %w", i, err)
		}
		at = end
	}
	return nil
}
