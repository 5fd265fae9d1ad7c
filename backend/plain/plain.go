package plain

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// Disk is an ordinary disk: a file or a block device, byte for byte.
type Disk struct {
	f     *os.File
	fd    int
	under []disk.Beneath // have the locks of what a device stands on
	info  disk.Info
	reach disk.Reach

	direct bool        // data goes past the page cache
	edges  *disk.Edged // nil where the storage has no larger blocks than the disk
	whole  int64       // ranges are cleared in multiples of so many bytes; 0: as they are

	capacity atomic.Uint64 // sectors, instead of info's: more after Grow
	growing  sync.Mutex    // one Grow at a time

	faults disk.Faults

	syncs  *os.File // for syncs: see disk.OpenSyncs; nil on a disk that is only read
	syncFD int      // its descriptor, or that of f
	size   disk.FileSize
	// lost is set once a sync has failed, to its error: see disk.LostData.
	lost atomic.Pointer[error]

	syncing sync.Mutex // guards what follows; never held across I/O
	busy    bool       // a sync is under way
	waiting disk.List  // for the next one
}

// MaxRangeSectors bounds one discard or write-zeroes segment: 1 GiB, so that no
// single call keeps a helper busy for ever.
const MaxRangeSectors = 1 << 30 >> disk.SectorShift

// Open opens and locks the file or device at path as an ordinary disk. An error that the
// file cannot be this disk wraps disk.ErrUnfit, one that another program has it is a
// *disk.InUseError.
func Open(path string, o disk.Options) (_ *Disk, err error) {
	mode := os.O_RDWR
	if o.ReadOnly || o.LookOnly {
		mode = os.O_RDONLY
	}
	f, err := openPlainFile(path, mode, &o)
	if err != nil {
		return nil, err
	}
	p := &Disk{f: f, direct: o.Direct}
	p.fd = int(f.Fd())
	p.syncFD = p.fd
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("disk %s: %w", path, err), p.Release())
		}
	}()
	if mode == os.O_RDWR {
		if p.syncs, err = disk.OpenSyncs(f); err != nil {
			return nil, err
		}
		p.syncFD = int(p.syncs.Fd())
	}
	if !o.LookOnly {
		if err := disk.LockFileOrWarn(f, o.ReadOnly, o.Warn); err != nil {
			return nil, err
		}
		if p.under, err = disk.LockBeneath(f, o.ReadOnly, o.Warn); err != nil {
			return nil, err
		}
	}
	size, err := disk.SizeOf(p.fd)
	if err != nil {
		return nil, err
	}
	own, physical, err := disk.BlockSizes(f)
	if err != nil {
		return nil, err
	}
	block := own
	if o.BlockSize != 0 {
		block = o.BlockSize
	}
	physical = max(block, physical)
	if err := p.setEdges(o, own, block); err != nil {
		return nil, err
	}
	sectors := disk.WholeBlocks(size, block)
	if sectors == 0 {
		return nil, disk.Unfitf("it has %d bytes, less than one block of %d; give it a size first (truncate -s)", size, block)
	}
	p.info = disk.Info{
		CapacitySectors:   sectors,
		LogicalBlockSize:  block,
		PhysicalBlockSize: physical,
		ReadOnly:          o.ReadOnly,
	}
	if !o.ReadOnly {
		p.info.MaxDiscardSectors, p.info.MaxWriteZeroesSectors = MaxRangeSectors, MaxRangeSectors
		p.info.DiscardGranularity = discardGranularity(f)
		if p.info.DiscardGranularity == 0 {
			p.info.MaxDiscardSectors = 0
		}
	}
	p.capacity.Store(sectors)
	p.size.Start(p.syncFD, int64(sectors)<<disk.SectorShift)
	p.size.Watch(p.under)
	p.faults.Init(p.info)
	if !o.LookOnly {
		if !o.ReadOnly && p.edges == nil {
			p.size.MapEnd((sectors<<disk.SectorShift - 1) &^ (disk.PageBytes - 1) >> disk.SectorShift)
		}
		warnOfForeign(path, size, &o)
	}
	return p, nil
}

// openPlainFile opens the file or block device of an ordinary disk.
func openPlainFile(path string, mode int, o *disk.Options) (f *os.File, err error) {
	if o.Direct {
		mode |= unix.O_DIRECT
	}
	if o.LookOnly {
		f, err = os.OpenFile(path, mode, 0)
	} else {
		f, err = disk.OpenUnused(path, mode)
	}
	switch {
	case disk.IsInUse(err):
		return nil, fmt.Errorf("disk %s %w", path, err)
	case err != nil:
		return nil, disk.CannotOpen("disk", path, disk.DirectError(err))
	}
	return f, nil
}

// Info implements Disk.
func (p *Disk) Info() disk.Info {
	i := p.info
	i.CapacitySectors = p.capacity.Load()
	return i
}

// ReportZone implements Disk. An ordinary disk has no zones, so none may be
// asked for.
func (p *Disk) ReportZone(int) zone.Descriptor {
	panic("backend: zone report of a disk without zones")
}

// Faults implements Disk.
func (p *Disk) Faults() *disk.Faults { return &p.faults }

// File is the file or device of the disk.
func (p *Disk) File() *os.File { return p.f }

// SyncOn has the disk synced through another descriptor from now on: tests make that fail.
func (p *Disk) SyncOn(fd int) { p.syncFD = fd }

// Close implements Disk.
func (p *Disk) Close() error {
	err := p.lastSync()
	if err != nil {
		err = fmt.Errorf("disk %s: %w", p.f.Name(), err)
	}
	return errors.Join(err, disk.UnlockFile(p.f), p.Release())
}

func (p *Disk) lastSync() error {
	err := p.failed()
	if err == nil && !p.info.ReadOnly {
		if err = unix.Fdatasync(p.syncFD); err != nil {
			err = fmt.Errorf("sync: %w", err)
		}
	}
	if err == nil {
		err = p.size.Look()
	}
	return err
}

// Release lets the file go as it is.
func (p *Disk) Release() error {
	err := p.size.Close()
	if p.syncs != nil {
		err = errors.Join(err, p.syncs.Close())
	}
	return errors.Join(err, p.f.Close(), disk.CloseAll(p.under))
}

// Submit implements Disk.
func (p *Disk) Submit(q *disk.Request) {
	r := requestOf(q)
	err := p.size.Failed()
	if err == nil && r.Op != disk.OpRead {
		err = p.size.Before(q)
	}
	if err != nil {
		p.fail(r, err)
		return
	}
	io := &r.IO
	io.FD, io.Dsync = p.fd, false
	switch r.Op {
	case disk.OpRead, disk.OpWrite:
		sectors := r.Bytes >> disk.SectorShift
		switch {
		case r.Op == disk.OpWrite && p.info.ReadOnly:
			p.fail(r, disk.ErrReadOnly)
			return
		case r.Bytes&(disk.SectorSize-1) != 0 || !p.inside(r.Sector, sectors):
			p.fail(r, disk.ErrRange)
			return
		case sectors == 0:
			r.Finish(nil)
			return
		}
		io.Code, r.step = engine.Readv, stepMoved
		if r.Op == disk.OpWrite {
			io.Code = engine.Writev
			r.Through(p.direct)
		}
		io.Off, io.Len, io.Iov = int64(r.Sector)<<disk.SectorShift, int64(r.Bytes), r.Iov
		if p.faults.Strike(r.Request, r.Sector, sectors) && !r.CutShort() {
			p.fail(r, r.Fault.Err)
			return
		}
	case disk.OpFlush:
		if p.faults.Strike(r.Request, 0, 0) {
			p.fail(r, r.Fault.Err) // of this flush alone: no sync has failed
			return
		}
		p.sync(r)
		return
	case disk.OpCommit:
		p.sync(r)
		return
	case disk.OpDiscard, disk.OpWriteZeroes:
		if p.info.ReadOnly {
			p.fail(r, disk.ErrReadOnly)
			return
		}
		for _, seg := range r.Ranges {
			if !p.inside(seg.Sector, uint64(seg.Sectors)) || seg.Sectors > MaxRangeSectors {
				p.fail(r, disk.ErrRange)
				return
			}
		}
		r.rangeNo, r.at = 0, 0
		p.nextRange(r)
		return
	default:
		p.fail(r, disk.ErrUnsupported)
		return
	}
	p.move(r)
}

// inside says whether the range lies on the disk and is whole logical blocks.
func (p *Disk) inside(sector, sectors uint64) bool {
	block, capacity := uint64(p.info.LogicalBlockSize)>>disk.SectorShift, p.capacity.Load()
	return (sector|sectors)&(block-1) == 0 && sector <= capacity && sectors <= capacity-sector
}

// nextRange starts on the next segment, or ends the request when none is left.
func (p *Disk) nextRange(r *request) {
	for r.rangeNo < len(r.Ranges) && r.Ranges[r.rangeNo].Sectors == 0 {
		r.rangeNo++
	}
	io := &r.IO
	if r.rangeNo == len(r.Ranges) {
		if !r.Stable {
			r.Finish(nil)
			return
		}
		p.sync(r)
		return
	}
	if p.whole != 0 {
		p.nextPart(r)
		return
	}
	seg := &r.Ranges[r.rangeNo]
	io.Code = engine.ZeroRange
	if r.Op == disk.OpDiscard || seg.Unmap {
		io.Code = engine.PunchHole
	}
	io.Off, io.Len = int64(seg.Sector)<<disk.SectorShift, int64(seg.Sectors)<<disk.SectorShift
	r.step = stepRange
	r.StartIO()
}

// Continue implements Disk.
func (p *Disk) Continue(q *disk.Request) {
	switch r := requestOf(q); r.step {
	case stepMoved:
		p.moved(r)
	case stepLead:
		p.lead(r)
	case stepSynced:
		p.synced(r)
	case stepShared:
		p.answer(r)
	case stepRange:
		p.rangeDone(r)
	case stepSpan:
		r.step = r.after
		p.start(r)
	}
}

// rangeDone goes on when one of Ranges is done.
func (p *Disk) rangeDone(r *request) {
	err := r.IO.Err
	switch {
	case err == unix.EOPNOTSUPP && r.Op == disk.OpDiscard:
		err = nil // a discard is advice
	case err == unix.EOPNOTSUPP && r.IO.Code == engine.PunchHole:
		r.IO.Code = engine.ZeroRange // the zeroes are a promise, the space is not
		r.StartIO()
		return
	}
	if p.edges != nil {
		p.edges.End(r.Request)
	}
	switch {
	case err != nil:
		p.fail(r, fmt.Errorf("%w: %w", disk.ErrIO, err))
		return
	case p.whole != 0:
		r.at += r.IO.Len
	default:
		r.rangeNo++
	}
	p.nextRange(r)
}

// moved goes on when the data of a read or write has been moved, or not.
func (p *Disk) moved(r *request) {
	if p.edges != nil {
		p.edges.End(r.Request)
	}
	if r.IO.Err == io.ErrUnexpectedEOF {
		if err := p.size.Look(); err != nil {
			p.fail(r, err)
			return
		}
	}
	switch {
	case r.IO.Err != nil:
		p.fail(r, fmt.Errorf("%w: %w", disk.ErrIO, r.IO.Err))
	case r.Fault != nil && r.Fault.Err != nil:
		p.fail(r, r.Fault.Err)
	case r.ThenSync:
		p.sync(r)
	default:
		r.Finish(nil)
	}
}

func (p *Disk) fail(r *request, err error) {
	r.Finish(&disk.RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: -1, Err: err})
}
