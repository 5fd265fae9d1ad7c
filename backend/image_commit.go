package backend

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// A store is how an image changes its file, but for the mapped live table and
// the guests' own data, which an engine moves. It is an interface so that tests
// can put a disk under the image that fails, or that forgets at a power cut
// what was not synced.
type store interface {
	// sync makes everything durable that was written to the file before.
	sync() error
	// writeStable writes b at off, durable when it returns. It does not wait for
	// other dirty data of the file.
	writeStable(b []byte, off int64) error
	// wipe makes n bytes from off on read as zeroes. It is not durable before
	// the next sync.
	wipe(off, n int64) error
}

// fileStore is the store of an image that stands in a file.
type fileStore struct {
	fd    int
	syncs int // the same file: see disk.OpenSyncs
}

func (s fileStore) sync() error {
	return engine.Retry(func() error { return unix.Fdatasync(s.syncs) })
}

func (s fileStore) writeStable(b []byte, off int64) error {
	var n int
	err := engine.Retry(func() (err error) {
		n, err = unix.Pwritev2(s.fd, [][]byte{b}, off, unix.RWF_DSYNC)
		return err
	})
	if err == nil && n != len(b) {
		err = unix.EIO // a block of 4 KiB that was written before is written whole, or the disk is ill
	}
	return err
}

// wipe makes a hole where the file system has them, else it writes zeroes.
func (s fileStore) wipe(off, n int64) error {
	err := engine.PunchHoleAt(s.fd, off, n)
	if err == unix.EOPNOTSUPP {
		err = engine.ZeroRangeAt(s.fd, off, n)
	}
	return err
}

// commit makes words durable, in the blocks of the table that are named. What
// they say must have been synced before. On an error the caller has to try
// again: some blocks may be new, some old.
//
// A power cut may come between any two blocks, and the limit on active zones
// has to hold all the same (btrfs, for one, mounts no disk that exceeds it). So
// zones stop being active first, in all blocks, before others start.
func (img *image) commit(words []zone.Entry, blocks []int) error {
	if img.MaxActive != 0 && len(blocks) > 1 {
		var part [blockZones]zone.Entry
		for _, n := range blocks {
			was := img.entries(n)
			if !mixReleases(part[:len(was)], was, words[n*blockZones:]) {
				continue
			}
			if err := img.commitBlock(n, part[:len(was)]); err != nil {
				return err
			}
		}
	}
	for _, n := range blocks {
		part := words[n*blockZones:][:len(img.entries(n))]
		if slices.Equal(part, img.entries(n)) {
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

// entries are the entries of block n of the committed table.
func (img *image) entries(n int) []zone.Entry {
	return img.commits[n*blockZones : min((n+1)*blockZones, len(img.commits))]
}

// allBlocks are the numbers of all blocks of the committed table.
func (img *image) allBlocks() []int {
	blocks := make([]int, img.blocks())
	for n := range blocks {
		blocks[n] = n
	}
	return blocks
}

// commitBlock writes block n, with words as its entries, over its older copy
// and makes that durable.
func (img *image) commitBlock(n int, words []zone.Entry) error {
	b := img.block[:]
	seq := img.seqs[n] + 1
	encodeBlock(b, n, seq, words)
	if err := img.store.writeStable(b, img.copyOff(n, seq)); err != nil {
		return err
	}
	img.seqs[n] = seq
	copy(img.commits[n*blockZones:], words)
	return nil
}

// renumber has the numbers of block n of the committed table begin anew where they have
// come far: see lateSeq.
func (img *image) renumber(n int) error {
	if img.seqs[n] < lateSeq {
		return nil
	}
	img.seqs[n] = early(img.seqs[n])
	for range 2 {
		if err := img.commitBlock(n, img.entries(n)); err != nil {
			return fmt.Errorf("number block %d of the committed zone table anew: %w", n, err)
		}
	}
	return nil
}

// mendTorn writes the copies of blocks anew that a power cut tore, where no
// commit has done it by now: torn copies are no damage in an image that is in
// use, but in one that is closed cleanly they would be.
func (img *image) mendTorn() error {
	var words [blockZones]zone.Entry
	for n := range img.seqs {
		b := make([]byte, blockBytes)
		if _, err := img.f.ReadAt(b, img.copyOff(n, img.seqs[n]+1)); err != nil {
			return err
		}
		part := words[:len(img.entries(n))]
		if seq, err := decodeBlock(b, n, part); err == nil && seq < img.seqs[n] {
			continue
		}
		copy(part, img.entries(n))
		if err := img.commitBlock(n, part); err != nil {
			return err
		}
	}
	return nil
}

// copyOff is where the copy of block n stands that has sequence number seq: even
// ones first, odd ones behind.
func (l *layout) copyOff(n int, seq uint64) int64 {
	return l.tableOff + int64(2*n)*blockBytes + int64(seq%2)*blockBytes
}

// punchAbove makes everything that stands in the file at or above the write
// pointers in words go away. It asks the file system where data is, so it costs
// nothing for zones that hold none.
func (img *image) punchAbove(words []zone.Entry) error {
	fd := int(img.f.Fd())
	zoneBytes := int64(img.ZoneSectors) << disk.SectorShift
	for at := img.offset(uint64(img.ConventionalZones) * img.ZoneSectors); at < img.fileBytes(); {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // nothing but holes from here on
		} else if err != nil {
			return fmt.Errorf("look for data above the write pointers: %w", err)
		} else if data >= img.fileBytes() {
			return nil // the file may be longer than the image; that part is not ours
		}
		i := (data - img.dataOff) / zoneBytes
		start := img.dataOff + i*zoneBytes
		end := min(start+zoneBytes, img.fileBytes())
		above := start + int64(words[i].Written())<<disk.SectorShift
		if data < above {
			at = above
			continue
		}
		// An offline zone too: it may come back.
		if err := img.store.wipe(data, end-data); err != nil {
			return fmt.Errorf("clear zone %d above its write pointer: %w", i, err)
		}
		at = end
	}
	return nil
}
