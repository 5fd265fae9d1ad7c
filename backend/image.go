package backend

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
	"github.com/zvhost/zvhost/backend/zone"
)

// This file is the layout of a zoned image and how one is created. The whole
// format is described in docs/image-format.md; image_table.go has the zone
// tables, image_state.go the part that says how the last daemon left it, and
// image_open.go puts it together again.

const (
	imageMagic   = "ZVHOSTIM"
	imageVersion = 1

	superBytes   = 4096
	superOff     = 0         // the superblock
	stateOff     = 4096      // two state blocks; image_faults.go has what may follow
	superCopyOff = 60 * 1024 // the superblock's copy
	liveOff      = 64 * 1024 // the live zone table

	// dataAlign keeps zones on addresses that suit huge pages, RAID stripes and
	// O_DIRECT.
	dataAlign = 1 << 20
)

// layout is what the superblock says: the geometry, and where things stand.
type layout struct {
	zone.Geometry
	uuid    [16]byte
	created int64  // seconds since 1970
	compat  uint64 // compatible features, known or not

	tableOff int64 // committed zone table, bytes
	dataOff  int64 // zone 0, bytes
}

// ErrNotImage is what opening a file that is no zoned image as one returns.
var ErrNotImage = errors.New("not a zvhost image")

func newLayout(g zone.Geometry) layout {
	l := layout{Geometry: g}
	l.tableOff = liveOff + disk.AlignUp(int64(g.Zones())*8, blockBytes)
	l.dataOff = disk.AlignUp(l.tableOff+2*blockBytes*int64(l.blocks()), dataAlign)
	return l
}

// blocks is the number of blocks of the committed table, each standing twice.
func (l *layout) blocks() int { return (l.Zones() + blockZones - 1) / blockZones }

// fileBytes is the size of the whole image.
func (l *layout) fileBytes() int64 { return l.dataOff + int64(l.CapacitySectors)<<disk.SectorShift }

// offset is where a sector of the disk stands in the file.
func (l *layout) offset(sector uint64) int64 { return l.dataOff + int64(sector)<<disk.SectorShift }

// The superblock, little-endian. Nothing in it ever changes.
//
//	0    magic "ZVHOSTIM"
//	8    format version
//	12   CRC-32C of the block with this field zero
//	16   UUID
//	32   incompatible features: a reader that does not know one must refuse
//	40   compatible features
//	48   capacity, zone size, zone capacity (sectors), conventional zones
//	80   logical block size (bytes), open limit, active limit, append limit (sectors)
//	96   offsets of live table, committed table and data (bytes)
//	120  time of creation (seconds since 1970)
func (l *layout) encode() []byte {
	b := make([]byte, superBytes)
	le := binary.LittleEndian
	copy(b, imageMagic)
	le.PutUint32(b[8:], imageVersion)
	copy(b[16:], l.uuid[:])
	le.PutUint64(b[40:], l.compat)
	le.PutUint64(b[48:], l.CapacitySectors)
	le.PutUint64(b[56:], l.ZoneSectors)
	le.PutUint64(b[64:], l.ZoneCapacitySectors)
	le.PutUint64(b[72:], uint64(l.ConventionalZones))
	le.PutUint32(b[80:], l.BlockSize)
	le.PutUint32(b[84:], l.MaxOpen)
	le.PutUint32(b[88:], l.MaxActive)
	le.PutUint32(b[92:], l.MaxAppendSectors)
	le.PutUint64(b[96:], liveOff)
	le.PutUint64(b[104:], uint64(l.tableOff))
	le.PutUint64(b[112:], uint64(l.dataOff))
	le.PutUint64(b[120:], uint64(l.created))
	le.PutUint32(b[12:], checksum(b, 12))
	return b
}

// decodeSuper reads a superblock. It returns ErrNotImage, wrapped, when b does
// not even start like one.
func decodeSuper(b []byte) (*layout, error) {
	le := binary.LittleEndian
	if len(b) < superBytes || string(b[:8]) != imageMagic {
		return nil, fmt.Errorf("%w: it does not start with %q", ErrNotImage, imageMagic)
	}
	if v := le.Uint32(b[8:]); v != imageVersion {
		return nil, disk.Unfitf("format version %d: this zvhost knows version %d only; use the zvhost that made the image, or a newer one", v, imageVersion)
	}
	if le.Uint32(b[12:]) != checksum(b[:superBytes], 12) {
		return nil, disk.Damagedf("the superblock's checksum is wrong")
	}
	if f := le.Uint64(b[32:]); f != 0 {
		return nil, disk.Unfitf("the image uses features %#x, which this zvhost does not know; use a newer one", f)
	}
	g := zone.Geometry{
		CapacitySectors:     le.Uint64(b[48:]),
		ZoneSectors:         le.Uint64(b[56:]),
		ZoneCapacitySectors: le.Uint64(b[64:]),
		ConventionalZones:   int(le.Uint64(b[72:])),
		BlockSize:           le.Uint32(b[80:]),
		MaxOpen:             le.Uint32(b[84:]),
		MaxActive:           le.Uint32(b[88:]),
		MaxAppendSectors:    le.Uint32(b[92:]),
	}
	if err := g.Complete(); err != nil {
		return nil, disk.Damagedf("the superblock is not sensible: %w", err)
	}
	l := newLayout(g)
	copy(l.uuid[:], b[16:])
	l.created = int64(le.Uint64(b[120:]))
	l.compat = le.Uint64(b[40:])
	if le.Uint64(b[96:]) != liveOff || int64(le.Uint64(b[104:])) != l.tableOff || int64(le.Uint64(b[112:])) != l.dataOff {
		return nil, disk.Damagedf("the superblock is not sensible: the offsets do not fit the geometry")
	}
	return &l, nil
}

// CreateImage makes a new zoned image at path, sparse, with every zone empty.
// It refuses to replace an existing file, and leaves none behind when it fails.
func CreateImage(path string, g zone.Geometry) error { return CreateImageWith(path, g, Start{}) }

// CreateImageWith is CreateImage for an image that starts out in another way.
func CreateImageWith(path string, g zone.Geometry, s Start) error {
	return createImage(path, g, s, func(f *os.File) newFile { return f })
}

// A newFile is what an image is made in. It is an interface so that tests can
// cut the power meanwhile.
type newFile interface {
	io.WriterAt
	Truncate(bytes int64) error
	Sync() error
}

// createImage is CreateImageWith through what over makes of the file.
func createImage(path string, g zone.Geometry, s Start, over func(*os.File) newFile) (err error) {
	if err := g.Complete(); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	l := newLayout(g)
	l.created = time.Now().Unix()
	_, _ = rand.Read(l.uuid[:]) // never fails (crypto/rand)
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
	if err := to.Truncate(l.fileBytes()); err != nil {
		return fmt.Errorf("create %s: %d bytes (sparse): %w", path, l.fileBytes(), err)
	}
	if err := l.writeNew(to, states, faults); err != nil {
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
func (l *layout) writeNew(f newFile, states map[int]zone.State, faults []byte) error {
	words := make([]zone.Entry, l.Zones())
	live := make([]byte, l.tableOff-liveOff)
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
	if _, err := f.WriteAt(live, liveOff); err != nil {
		return err
	}
	// Both copies of every block: the space must be there before a commit needs
	// it.
	table := make([]byte, l.dataOff-l.tableOff)
	for n := range l.blocks() {
		part := words[n*blockZones : min((n+1)*blockZones, len(words))]
		encodeBlock(table[2*n*blockBytes:][:blockBytes], n, 2, part)
		encodeBlock(table[(2*n+1)*blockBytes:][:blockBytes], n, 1, part)
	}
	if _, err := f.WriteAt(table[:2*l.blocks()*blockBytes], l.tableOff); err != nil {
		return err
	}
	for i := range 2 {
		s := state{seq: uint64(i + 1), clean: true}
		if _, err := f.WriteAt(s.encode(l.uuid), stateOff+int64(i)*blockBytes); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(faults, faultsOff); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// The superblock's copy before the superblock: an image that has the one and
	// not the other would be found damaged.
	super := l.encode()
	if _, err := f.WriteAt(super, superCopyOff); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	_, err := f.WriteAt(super, superOff)
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
