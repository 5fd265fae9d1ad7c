package image

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// An Image is an open zoned image file: the layout, the zone tables and the
// lock. backend/zoned_posix.go does the I/O of guests on it.
type Image struct {
	format.Layout
	File     *os.File
	Store    Store // all changes of File but those of Live go through it
	Path     string
	ReadOnly bool
	// Resumable says that writes which were in flight when the last daemon died may
	// be finished where they were: the live table is what guests were told.
	Resumable bool
	Unclean   bool // a daemon that had it died, with requests in flight perhaps

	LeaveUnclean bool // closed now, it is to be found unclean once more

	stateMu sync.Mutex // guards state, once the image is open
	state   format.StateBlock

	Size disk.FileSize

	syncing sync.Mutex // guards lost, and has one sync at a time: see Sync
	lost    error      // what a sync has failed with

	Syncs  *os.File   // File once more, for syncs: see disk.OpenSyncs; nil on a read-only image
	DataFD int        // what is in the zones is read and written here: File, or
	Direct *os.File   // File once more, open for direct I/O
	Reach  disk.Reach // and what memory that takes
	Unit   int64      // bytes of a block there, if larger than the image's, or 0: see disk.Edged

	Live      LiveTable               // none on a read-only image
	Faults    []disk.Fault            // that it was created with
	Found     []zone.Entry            // how the zones were found, after recovery
	Committed []zone.Entry            // the committed table, as it stands in the file
	seqs      []uint64                // sequence number of each of its blocks
	block     [format.BlockBytes]byte // scratch of commitBlock
}

// Open opens, locks and recovers the image at path. Tests put a Store of their own over the
// image's file with over, which may be nil. The error satisfies disk.IsInUse if another
// process uses the image, wraps disk.ErrDamaged or ErrNotImage if it is not whole or no
// image, and disk.ErrUnfit if it cannot be served with these options.
func Open(path string, o disk.Options, over func(Store) Store) (_ *Image, err error) {
	mode := os.O_RDWR
	if o.ReadOnly || o.LookOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, disk.CannotOpen("image", path, err)
	}
	img := &Image{File: f, DataFD: int(f.Fd()), Path: path, ReadOnly: o.ReadOnly}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("image %s: %w", path, err), img.Release())
		}
	}()
	if mode == os.O_RDWR { // before the lock: it is told of what fails from here on
		if img.Syncs, err = disk.OpenSyncs(f); err != nil {
			return nil, err
		}
		img.Store = FileStore{FD: int(f.Fd()), Syncs: int(img.Syncs.Fd())}
	}
	if over != nil {
		img.Store = over(img.Store)
	}
	if !o.LookOnly {
		if err := disk.LockFileOrWarn(f, o.ReadOnly, o.Warn); err != nil {
			return nil, err
		}
	}
	l, err := format.ReadSuper(f)
	if err != nil {
		return nil, err
	}
	img.Layout = *l
	if size, err := disk.SizeOf(int(f.Fd())); err != nil {
		return nil, err
	} else if err := l.CheckSize(size); err != nil {
		return nil, err
	}
	if err := l.CheckTables(f); err != nil {
		return nil, fmt.Errorf("%w; run 'zvhost check'", err)
	}
	img.Size.Start(int(f.Fd()), l.FileBytes())
	if img.Faults, err = format.ReadFaults(f, l); err != nil {
		return nil, err
	}
	if o.BlockSize != 0 && o.BlockSize != img.BlockSize {
		return nil, disk.Unfitf("it has blocks of %d bytes: leave --block-size %d out, or create another image", img.BlockSize, o.BlockSize)
	}
	if o.Direct || o.MinUnit != 0 {
		if err := img.openDirect(mode, o); err != nil {
			return nil, err
		}
	}
	if o.LookOnly {
		return img, nil
	}
	if !o.ReadOnly && img.Unit == 0 {
		end := uint64(l.FileBytes()-1-l.DataOff) &^ (disk.PageBytes - 1) >> disk.SectorShift
		img.Size.MapEnd(end &^ (img.ZoneSectors - 1)) // an append says which zone, and not where
	}
	return img, img.recover()
}

// openDirect opens the file once more, for what is in the zones.
func (img *Image) openDirect(mode int, o disk.Options) (err error) {
	unit := o.MinUnit
	if o.Direct {
		// By its descriptor: path may be another file by now.
		img.Direct, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", img.DataFD), mode|unix.O_DIRECT, 0)
		if err != nil {
			return disk.DirectError(err)
		}
		img.DataFD = int(img.Direct.Fd())
		var block uint32
		img.Reach, block = disk.ReachOf(img.Direct)
		unit = max(unit, block)
	}
	img.Unit, err = img.Reach.SetUnit(unit, img.BlockSize)
	return err
}

// Distrust makes the next process that opens the image use the committed table, not the
// live one. It returns an error if no state block could be written.
func (img *Image) Distrust() error {
	if err := img.Size.Failed(); err != nil {
		return err // it is no image any more, and this would make it longer again
	}
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	return img.state.Distrust(img.Store, img.UUID)
}

// Close syncs the image, marks it clean, unless it is read-only, and closes it. Its entries
// must have been committed. On an error it is closed all the same, and is found unclean.
func (img *Image) Close() error {
	if img.ReadOnly {
		err := img.Size.Look()
		if err != nil {
			err = fmt.Errorf("image %s: %w", img.Path, err)
		}
		return errors.Join(err, img.Release())
	}
	err := img.Sync() // the live table too: a sync of a file covers its mappings
	if err == nil {
		img.stateMu.Lock()
		img.state.Clean, img.state.MayHaveRun = true, img.LeaveUnclean
		err = img.state.Write(img.Store, img.UUID)
		img.stateMu.Unlock()
	} else {
		_ = img.Distrust() // nobody is told again
	}
	return errors.Join(err, img.Release())
}

// Sync makes everything durable that was written before. Once a sync has failed, it returns
// that error for ever. One sync runs at a time: the kernel reports a writeback error to only
// one of two concurrent syncs on the same file description. A write of the tables that failed
// may have received such an error by a file description of its own; a sync that follows it
// receives the error too. It has to follow at once: the file descriptions of a later process
// receive no error that has been reported before.
func (img *Image) Sync() error {
	img.syncing.Lock()
	defer img.syncing.Unlock()
	if img.lost == nil {
		img.lost = img.Store.Sync()
	}
	if img.lost == nil {
		img.lost = img.Size.Look()
	}
	return img.lost
}

// Release closes the image as it is, as a killed process does, and returns the errors of
// close.
func (img *Image) Release() error {
	err := errors.Join(img.Live.Close(), img.Size.Close())
	for _, f := range []*os.File{img.Direct, img.Syncs} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return errors.Join(err, disk.UnlockFile(img.File), img.File.Close())
}
