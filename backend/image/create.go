package image

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// This file creates a zoned image. The format is in backend/image/format and in
// docs/image-format.md.

// Create makes a new zoned image at path, sparse, with every zone empty. It returns an
// error if the geometry cannot be, if path exists, which is left as it is, or if the file
// cannot be made, and then leaves none behind.
func Create(path string, g zone.Geometry) error { return CreateWith(path, g, Start{}) }

// CreateWith is Create for an image whose zones start as s says. It also returns an error
// if s names a zone or a fault that the disk cannot have.
func CreateWith(path string, g zone.Geometry, s Start) error {
	return CreateOver(path, g, s, func(f *os.File) Target { return f })
}

// A Target is what an image is made in. It is an interface so that tests can
// cut the power meanwhile.
type Target interface {
	io.WriterAt
	Truncate(bytes int64) error
	Sync() error
}

// CreateOver is CreateWith for tests: the image is written through what over makes of the
// file.
func CreateOver(path string, g zone.Geometry, s Start, over func(*os.File) Target) (err error) {
	if err := g.Complete(); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	l := format.NewLayout(g)
	l.Created = time.Now().Unix()
	_, _ = rand.Read(l.UUID[:]) // never fails (crypto/rand)
	states, faults, err := s.prepare(&l)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}

	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return exists(path)
	} else if err != nil {
		return disk.CannotCreate(path, err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	keepInPlace(f)
	to := over(f)
	if err := to.Truncate(l.FileBytes()); err != nil {
		return fmt.Errorf("create %s: %d bytes (sparse): %w", path, l.FileBytes(), err)
	}
	if err := writeNew(&l, to, states, faults); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	// The directory too: a power cut must not take back the file's name.
	return errors.Join(to.Sync(), syncDir(filepath.Dir(path)))
}

// exists is why no image is made at path: something is there, and whose it is nobody
// has said. It is no advice to destroy it.
func exists(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return disk.Unfitf("create %s: a symbolic link of this name leads to nothing, and is left as it is; choose another name", path)
	case err == nil && st.IsDir():
		return disk.Unfitf("create %s: it is a directory; give the name of a new file in it", path)
	case err == nil && st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0:
		return disk.Unfitf("create %s: it is a block device, and images stand in files only; give the name of a new file", path)
	case err == nil && !st.Mode().IsRegular():
		return disk.Unfitf("create %s: it exists and is no regular file; choose another name", path)
	}
	return disk.Unfitf("create %s: the file exists, and is left as it is; choose another name", path)
}

// writeNew writes all but the superblock first, so that a half-made image is
// never taken for a whole one. Zones are empty, but for those in states; faults
// is the block of the image's faults, or nil.
func writeNew(l *format.Layout, f Target, states map[int]zone.State, faults []byte) error {
	words := make([]zone.Entry, l.Zones())
	live := make([]byte, l.TableOff-format.LiveOff)
	for i := range words {
		words[i] = zone.Pack(i, zone.Empty, 0)
		if l.Conventional(i) {
			words[i] = zone.Pack(i, zone.NotWP, 0)
		}
		if s, ok := states[i]; ok {
			words[i] = zone.Pack(i, s, 0) // a full one was finished before anything was written
		}
		binary.LittleEndian.PutUint64(live[8*i:], uint64(words[i]))
	}
	if _, err := f.WriteAt(live, format.LiveOff); err != nil {
		return err
	}
	// Both copies of every block: the space must be there before a commit needs
	// it.
	table := make([]byte, l.DataOff-l.TableOff)
	for n := range l.Blocks() {
		part := words[n*format.BlockZones : min((n+1)*format.BlockZones, len(words))]
		format.EncodeBlock(table[2*n*format.BlockBytes:][:format.BlockBytes], n, 2, part)
		format.EncodeBlock(table[(2*n+1)*format.BlockBytes:][:format.BlockBytes], n, 1, part)
	}
	if _, err := f.WriteAt(table[:2*l.Blocks()*format.BlockBytes], l.TableOff); err != nil {
		return err
	}
	for i := range 2 {
		s := format.StateBlock{Seq: uint64(i + 1), Clean: true}
		if _, err := f.WriteAt(s.Encode(l.UUID), format.StateOff+int64(i)*format.BlockBytes); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(faults, format.FaultsOff); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// The superblock's copy before the superblock: an image that has the one and
	// not the other would be found damaged.
	super := l.EncodeSuper()
	if _, err := f.WriteAt(super, format.SuperCopyOff); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	_, err := f.WriteAt(super, format.SuperOff)
	return err
}

// keepInPlace turns copy-on-write off where the file system has it (btrfs): the
// tables are overwritten all the time, the live one through a mapping, for
// which an overwrite that needs new space would be fatal on a full disk. Where
// the flag is not known there is nothing to turn off.
func keepInPlace(f *os.File) {
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|nocowFlag)
	}
}

// nocowFlag is FS_NOCOW_FL (include/uapi/linux/fs.h), which x/sys/unix lacks.
const nocowFlag = 0x00800000

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
