package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

const (
	Magic        = "ZVHOSTIM" // an image begins with it
	imageVersion = 1

	SuperBytes   = 4096
	SuperOff     = 0         // the superblock
	StateOff     = 4096      // two state blocks; faults.go has what may follow
	SuperCopyOff = 60 * 1024 // the superblock's copy
	LiveOff      = 64 * 1024 // the live zone table

	// dataAlign keeps zones on addresses that suit huge pages, RAID stripes and
	// O_DIRECT.
	dataAlign = 1 << 20
)

// Layout is what the superblock says: the geometry, and where things stand.
type Layout struct {
	zone.Geometry
	UUID    [16]byte
	Created int64  // seconds since 1970
	Compat  uint64 // compatible features, known or not

	TableOff int64 // committed zone table, bytes
	DataOff  int64 // zone 0, bytes
}

// ErrNotImage is what opening a file that is no zoned image as one returns.
var ErrNotImage = errors.New("not a zvhost image")

// NewLayout returns the layout of an image of geometry g, which is complete; without a
// UUID.
func NewLayout(g zone.Geometry) Layout {
	l := Layout{Geometry: g}
	l.TableOff = LiveOff + disk.AlignUp(int64(g.Zones())*8, BlockBytes)
	l.DataOff = disk.AlignUp(l.TableOff+2*BlockBytes*int64(l.Blocks()), dataAlign)
	return l
}

// Blocks is the number of blocks of the committed table, each standing twice.
func (l *Layout) Blocks() int { return (l.Zones() + BlockZones - 1) / BlockZones }

// FileBytes is the size of the whole image.
func (l *Layout) FileBytes() int64 { return l.DataOff + int64(l.CapacitySectors)<<disk.SectorShift }

// Offset is where a sector of the disk stands in the file.
func (l *Layout) Offset(sector uint64) int64 { return l.DataOff + int64(sector)<<disk.SectorShift }

// EncodeSuper returns the superblock, little-endian. Nothing in it ever changes.
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
func (l *Layout) EncodeSuper() []byte {
	b := make([]byte, SuperBytes)
	le := binary.LittleEndian
	copy(b, Magic)
	le.PutUint32(b[8:], imageVersion)
	copy(b[16:], l.UUID[:])
	le.PutUint64(b[40:], l.Compat)
	le.PutUint64(b[48:], l.CapacitySectors)
	le.PutUint64(b[56:], l.ZoneSectors)
	le.PutUint64(b[64:], l.ZoneCapacitySectors)
	le.PutUint64(b[72:], uint64(l.ConventionalZones))
	le.PutUint32(b[80:], l.BlockSize)
	le.PutUint32(b[84:], l.MaxOpen)
	le.PutUint32(b[88:], l.MaxActive)
	le.PutUint32(b[92:], l.MaxAppendSectors)
	le.PutUint64(b[96:], LiveOff)
	le.PutUint64(b[104:], uint64(l.TableOff))
	le.PutUint64(b[112:], uint64(l.DataOff))
	le.PutUint64(b[120:], uint64(l.Created))
	le.PutUint32(b[12:], Checksum(b, 12))
	return b
}

// DecodeSuper reads a superblock. It returns ErrNotImage, wrapped, when b does
// not even start like one.
func DecodeSuper(b []byte) (*Layout, error) {
	le := binary.LittleEndian
	if len(b) < SuperBytes || string(b[:8]) != Magic {
		return nil, fmt.Errorf("%w: it does not start with %q", ErrNotImage, Magic)
	}
	if v := le.Uint32(b[8:]); v != imageVersion {
		return nil, disk.Unfitf("format version %d: this zvhost knows version %d only; use the zvhost that made the image, or a newer one", v, imageVersion)
	}
	if le.Uint32(b[12:]) != Checksum(b[:SuperBytes], 12) {
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
	l := NewLayout(g)
	copy(l.UUID[:], b[16:])
	l.Created = int64(le.Uint64(b[120:]))
	l.Compat = le.Uint64(b[40:])
	if le.Uint64(b[96:]) != LiveOff || int64(le.Uint64(b[104:])) != l.TableOff || int64(le.Uint64(b[112:])) != l.DataOff {
		return nil, disk.Damagedf("the superblock is not sensible: the offsets do not fit the geometry")
	}
	return &l, nil
}

// CopyOff is where the copy of block n stands that has sequence number seq: even
// ones first, odd ones behind.
func (l *Layout) CopyOff(n int, seq uint64) int64 {
	return l.TableOff + int64(2*n)*BlockBytes + int64(seq%2)*BlockBytes
}

// CheckSize says whether a file of size bytes holds the whole image.
func (l *Layout) CheckSize(size int64) error {
	if size < l.FileBytes() {
		return disk.Damagedf("the file has %d bytes, but its zones need %d: it was cut short; run 'zvhost check'", size, l.FileBytes())
	}
	return nil
}

// CheckTables says whether something stands in f wherever a zone table should. No block of
// them is ever a hole: whoever looks for more zones than a file has been made with, because
// its superblock says so, would spend memory and time on nothing.
func (l *Layout) CheckTables(f *os.File) error {
	for _, table := range [][2]int64{
		{LiveOff, LiveOff + 8*int64(l.Zones())},
		{l.TableOff, l.TableOff + 2*BlockBytes*int64(l.Blocks())},
	} {
		hole, err := unix.Seek(int(f.Fd()), table[0], unix.SEEK_HOLE)
		if err == unix.EINVAL || err == unix.EOPNOTSUPP {
			return nil // the file system does not tell
		} else if err != nil {
			return fmt.Errorf("look for the zone tables: %w", err)
		}
		if hole < table[1] {
			return disk.Damagedf("the zone tables are not there: nothing stands at byte %d, and they go on to %d; the superblock is wrong, or the file was never written whole", hole, table[1])
		}
	}
	return nil
}

// ReadSuper reads the superblock. Its copy has to say the same, or be damaged: to make one
// of the other is for Repair, when somebody asks for it. A superblock is written once, and a
// bad one means that something else is wrong with the file.
func ReadSuper(f *os.File) (*Layout, error) {
	b := make([]byte, SuperBytes)
	if n, err := f.ReadAt(b, SuperOff); err != nil && n < SuperBytes {
		return nil, fmt.Errorf("%w: it is shorter than a superblock", ErrNotImage)
	}
	l, err := DecodeSuper(b)
	if n, rerr := f.ReadAt(b, SuperCopyOff); n == SuperBytes {
		switch twin, cerr := DecodeSuper(b); {
		case err == nil && cerr == nil && *l != *twin:
			return nil, disk.Damagedf("the superblock and its copy differ in %s; run 'zvhost check', which says which of them fits the rest", l.Differences(twin))
		case err != nil && cerr == nil:
			return nil, disk.Damagedf("the superblock is damaged (%v), but its copy is whole; run 'zvhost check --repair'", err)
		}
	} else if err == nil && rerr != nil && !errors.Is(rerr, io.EOF) {
		return nil, fmt.Errorf("read the copy of the superblock: %w", rerr)
	}
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, ErrNotImage) {
		err = fmt.Errorf("%w; run 'zvhost check'", err)
	}
	return nil, err
}

// Differences names the fields in which the superblocks l and o differ, with the values of both.
func (l *Layout) Differences(o *Layout) string {
	var list []string
	for _, f := range []struct {
		name string
		l, o any
	}{
		{"UUID", fmt.Sprintf("%x", l.UUID), fmt.Sprintf("%x", o.UUID)},
		{"capacity", l.CapacitySectors, o.CapacitySectors},
		{"zone size", l.ZoneSectors, o.ZoneSectors},
		{"zone capacity", l.ZoneCapacitySectors, o.ZoneCapacitySectors},
		{"conventional zones", l.ConventionalZones, o.ConventionalZones},
		{"block size", l.BlockSize, o.BlockSize},
		{"open zones limit", l.MaxOpen, o.MaxOpen},
		{"active zones limit", l.MaxActive, o.MaxActive},
		{"append limit", l.MaxAppendSectors, o.MaxAppendSectors},
		{"compatible features", l.Compat, o.Compat},
		{"time of creation", l.Created, o.Created},
	} {
		if f.l != f.o {
			list = append(list, fmt.Sprintf("%s (%v, %v)", f.name, f.l, f.o))
		}
	}
	return strings.Join(list, ", ")
}

// SuperNames are the names of the two copies of the superblock.
var SuperNames = [2]string{"superblock", "copy of the superblock"}
