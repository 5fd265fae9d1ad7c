package backend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// An image is an open zoned image file: the layout, the zone tables and the
// lock. zoned_posix.go does the I/O of guests on it.
type image struct {
	layout
	f        *os.File
	store    store // all changes of f but those of live go through it
	path     string
	readOnly bool
	// resumable says that writes which were in flight when the last daemon died may
	// be finished where they were: the live table is what guests were told.
	resumable bool
	unclean   bool // a daemon that had it died, with requests in flight perhaps

	leaveUnclean bool // closed now, it is to be found unclean once more

	stateMu sync.Mutex // guards state, once the image is open
	state   state

	size disk.FileSize

	syncing sync.Mutex // guards lost, and has one sync at a time: see sync
	lost    error      // what a sync has failed with

	syncs  *os.File   // f once more, for syncs: see disk.OpenSyncs; nil on a read-only image
	data   int        // what is in the zones is read and written here: f, or
	direct *os.File   // f once more, open for direct I/O
	reach  disk.Reach // and what memory that takes
	unit   int64      // bytes of a block there, if larger than the image's, or 0: see edged

	live    liveTable        // none on a read-only image
	faults  []disk.Fault     // that it was created with
	words   []zone.Entry     // how the zones were found, after recovery
	commits []zone.Entry     // the committed table, as it stands in the file
	seqs    []uint64         // sequence number of each of its blocks
	block   [blockBytes]byte // scratch of commitBlock
}

// openImage opens, locks and recovers the image at path. over, unless it is nil, puts
// something over the image's file: tests do.
func openImage(path string, o disk.Options, over func(store) store) (_ *image, err error) {
	mode := os.O_RDWR
	if o.ReadOnly || o.LookOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, disk.CannotOpen("image", path, err)
	}
	img := &image{f: f, data: int(f.Fd()), path: path, readOnly: o.ReadOnly}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("image %s: %w", path, err), img.release())
		}
	}()
	if mode == os.O_RDWR { // before the lock: it is told of what fails from here on
		if img.syncs, err = disk.OpenSyncs(f); err != nil {
			return nil, err
		}
		img.store = fileStore{fd: int(f.Fd()), syncs: int(img.syncs.Fd())}
	}
	if over != nil {
		img.store = over(img.store)
	}
	if !o.LookOnly {
		if err := disk.LockFileOrWarn(f, o.ReadOnly, o.Warn); err != nil {
			return nil, err
		}
	}
	l, err := readSuper(f)
	if err != nil {
		return nil, err
	}
	img.layout = *l
	if size, err := disk.SizeOf(int(f.Fd())); err != nil {
		return nil, err
	} else if err := l.checkSize(size); err != nil {
		return nil, err
	}
	if err := l.checkTables(f); err != nil {
		return nil, fmt.Errorf("%w; run 'zvhost check'", err)
	}
	img.size.Start(int(f.Fd()), l.fileBytes())
	if img.faults, err = readFaults(f, l); err != nil {
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
	if !o.ReadOnly && img.unit == 0 {
		end := uint64(l.fileBytes()-1-l.dataOff) &^ (disk.PageBytes - 1) >> disk.SectorShift
		img.size.MapEnd(end &^ (img.ZoneSectors - 1)) // an append says which zone, and not where
	}
	return img, img.recover()
}

// openDirect opens the file once more, for what is in the zones.
func (img *image) openDirect(mode int, o disk.Options) (err error) {
	unit := o.MinUnit
	if o.Direct {
		// By its descriptor: path may be another file by now.
		img.direct, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", img.data), mode|unix.O_DIRECT, 0)
		if err != nil {
			return disk.DirectError(err)
		}
		img.data = int(img.direct.Fd())
		var block uint32
		img.reach, block = disk.ReachOf(img.direct)
		unit = max(unit, block)
	}
	img.unit, err = img.reach.SetUnit(unit, img.BlockSize)
	return err
}

// checkSize says whether a file of size bytes holds the whole image.
func (l *layout) checkSize(size int64) error {
	if size < l.fileBytes() {
		return disk.Damagedf("the file has %d bytes, but its zones need %d: it was cut short; run 'zvhost check'", size, l.fileBytes())
	}
	return nil
}

// checkTables says whether something stands in f wherever a zone table should. No block of
// them is ever a hole: whoever looks for more zones than a file has been made with, because
// its superblock says so, would spend memory and time on nothing.
func (l *layout) checkTables(f *os.File) error {
	for _, table := range [][2]int64{
		{liveOff, liveOff + 8*int64(l.Zones())},
		{l.tableOff, l.tableOff + 2*blockBytes*int64(l.blocks())},
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

// readSuper reads the superblock. Its copy has to say the same, or be damaged: to make one
// of the other is for Repair, when somebody asks for it. A superblock is written once, and a
// bad one means that something else is wrong with the file.
func readSuper(f *os.File) (*layout, error) {
	b := make([]byte, superBytes)
	if n, err := f.ReadAt(b, superOff); err != nil && n < superBytes {
		return nil, fmt.Errorf("%w: it is shorter than a superblock", ErrNotImage)
	}
	l, err := decodeSuper(b)
	if n, rerr := f.ReadAt(b, superCopyOff); n == superBytes {
		switch twin, cerr := decodeSuper(b); {
		case err == nil && cerr == nil && *l != *twin:
			return nil, disk.Damagedf("the superblock and its copy differ in %s; run 'zvhost check', which says which of them fits the rest", l.differences(twin))
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

func readLive(f *os.File, l *layout) ([]zone.Entry, error) {
	b := make([]byte, 8*l.Zones())
	if _, err := f.ReadAt(b, liveOff); err != nil {
		return nil, fmt.Errorf("read the zone table: %w", err)
	}
	words := make([]zone.Entry, l.Zones())
	for i := range words {
		words[i] = zone.Entry(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return words, nil
}

// readCommitted reads the newer valid copy of each block of the committed
// table. A damaged copy is a finding, two damaged copies of one block an error.
func readCommitted(f *os.File, l *layout) (words []zone.Entry, seqs []uint64, findings []Finding, err error) {
	words, seqs = make([]zone.Entry, l.Zones()), make([]uint64, l.blocks())
	for n := range seqs {
		part := words[n*blockZones : min((n+1)*blockZones, len(words))]
		var damaged [2]error
		if seqs[n], damaged, err = readBlock(f, l, n, part); err != nil {
			return nil, nil, nil, err
		}
		for c, err := range damaged {
			if err != nil {
				findings = append(findings, Finding{Where: copyName(n, c), What: err.Error()})
			}
		}
		if seqs[n] == 0 {
			return nil, nil, findings, disk.Damagedf("both copies of block %d of the committed zone table are damaged; run 'zvhost check'", n)
		}
		for i, w := range part {
			if err := w.Verify(&l.Geometry, n*blockZones+i); err != nil {
				return nil, nil, findings, disk.Damagedf("committed zone table entry %d: %w; run 'zvhost check'", n*blockZones+i, err)
			}
		}
	}
	return words, seqs, findings, nil
}

func copyName(n, c int) string {
	return fmt.Sprintf("committed zone table, block %d, copy %d", n, c)
}

// readBlock reads the newer valid copy of block n of the committed table into
// words. damaged says what is wrong with each of the copies; if both are
// damaged seq is 0.
func readBlock(f *os.File, l *layout, n int, words []zone.Entry) (seq uint64, damaged [2]error, err error) {
	var b [2 * blockBytes]byte
	if _, err := f.ReadAt(b[:], l.tableOff+int64(n)*int64(len(b))); err != nil {
		return 0, damaged, fmt.Errorf("read the committed zone table: %w", err)
	}
	var entries [blockZones]zone.Entry
	for c := range damaged {
		is, err := decodeBlock(b[c*blockBytes:][:blockBytes], n, entries[:len(words)])
		if err == nil {
			err = checkSeq(is, c == 1)
		}
		if damaged[c] = err; err == nil && is > seq {
			seq = is
			copy(words, entries[:])
		}
	}
	return seq, damaged, nil
}

// distrust makes the next one who opens the image go on from the committed
// table, whatever the live one says.
func (img *image) distrust() error {
	if err := img.size.Failed(); err != nil {
		return err // it is no image any more, and this would make it longer again
	}
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	return img.state.distrust(img.store, img.uuid)
}

// close notes the image clean, unless it is read-only, and lets it go. Its
// words must have been committed.
func (img *image) close() error {
	if img.readOnly {
		err := img.size.Look()
		if err != nil {
			err = fmt.Errorf("image %s: %w", img.path, err)
		}
		return errors.Join(err, img.release())
	}
	err := img.sync() // the live table too: a sync of a file covers its mappings
	if err == nil {
		img.stateMu.Lock()
		img.state.clean, img.state.doubt = true, img.leaveUnclean
		err = img.state.write(img.store, img.uuid)
		img.stateMu.Unlock()
	} else {
		_ = img.distrust() // nobody is told again
	}
	return errors.Join(err, img.release())
}

// sync makes everything durable that was written before, unless a sync has failed once.
// There is one at a time, for of two that are told of data that is lost the kernel tells
// one. A write of the tables that fails may have been told as well, by a description of
// its own: a sync behind it knows, and has to come at once, for a later daemon's
// descriptions are told of nothing that anybody has been told of.
func (img *image) sync() error {
	img.syncing.Lock()
	defer img.syncing.Unlock()
	if img.lost == nil {
		img.lost = img.store.sync()
	}
	if img.lost == nil {
		img.lost = img.size.Look()
	}
	return img.lost
}

// release lets the file go as it is.
func (img *image) release() error {
	err := errors.Join(img.live.close(), img.size.Close())
	for _, f := range []*os.File{img.direct, img.syncs} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return errors.Join(err, disk.UnlockFile(img.f), img.f.Close())
}
