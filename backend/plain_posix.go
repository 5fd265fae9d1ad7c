package backend

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// plain is an ordinary disk: a file or a block device, byte for byte.
type plain struct {
	f     *os.File
	fd    int
	info  Info
	reach reach

	capacity atomic.Uint64 // sectors, instead of info's: more after Grow
	growing  sync.Mutex    // one Grow at a time

	faults Faults

	// lost is set once a sync has failed, to its error: see errLost.
	lost atomic.Pointer[error]
}

// errLost is what every sync returns after one has failed. The kernel then may
// have dropped data that guests wrote, and says so only once: the next
// fdatasync would report that all is well (fsync(2), "EIO").
func errLost(cause error) error {
	return fmt.Errorf("an earlier sync failed and may have lost data: %w; restart zvhost to go on with what is on the disk", cause)
}

// maxRangeSectors bounds one discard or write-zeroes segment: 1 GiB, so that no
// single call keeps a helper busy for ever.
const maxRangeSectors = 1 << 30 >> SectorShift

func openPlain(path string, o Options) (_ *plain, err error) {
	mode := os.O_RDWR
	if o.ReadOnly || o.look {
		mode = os.O_RDONLY
	}
	p := new(plain)
	var directBlock uint32
	if o.Direct {
		p.f, p.reach, directBlock, err = openDirect(path, mode)
	} else {
		p.f, err = os.OpenFile(path, mode, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open the disk: %w", err)
	}
	f := p.f
	p.fd = int(f.Fd())
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("disk %s: %w", path, err), f.Close())
		}
	}()
	if !o.look {
		if err := lockFile(f, o.ReadOnly); err != nil {
			return nil, err
		}
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	block, physical, err := blockSizes(f)
	if err != nil {
		return nil, err
	}
	block = max(block, directBlock)
	physical = max(block, physical)
	sectors := wholeBlocks(size, block)
	if sectors == 0 {
		return nil, fmt.Errorf("it has %d bytes, less than one block of %d; give it a size first (truncate -s)", size, block)
	}
	p.info = Info{
		CapacitySectors:   sectors,
		LogicalBlockSize:  block,
		PhysicalBlockSize: physical,
		ReadOnly:          o.ReadOnly,
	}
	if !o.ReadOnly {
		p.info.MaxDiscardSectors, p.info.MaxWriteZeroesSectors = maxRangeSectors, maxRangeSectors
	}
	p.capacity.Store(sectors)
	p.faults.init(p.info)
	return p, nil
}

// blockSizes are the logical and physical block sizes in bytes: a device's own,
// or for a file those that any file system takes through the page cache.
func blockSizes(f *os.File) (logical, physical uint32, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if st.Mode()&os.ModeDevice == 0 {
		return 512, 4096, nil
	}
	l, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for its block size: %w", err)
	}
	p, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKPBSZGET)
	if err != nil || p < l || p > math.MaxInt32 {
		p = l
	}
	return uint32(l), uint32(p), nil
}

// Info implements Disk.
func (p *plain) Info() Info {
	i := p.info
	i.CapacitySectors = p.capacity.Load()
	return i
}

// ReportZone implements Disk. An ordinary disk has no zones, so none may be
// asked for.
func (p *plain) ReportZone(int) Zone { panic("backend: zone report of a disk without zones") }

// Faults implements Disk.
func (p *plain) Faults() *Faults { return &p.faults }

// Close implements Disk.
func (p *plain) Close() error {
	var err error
	if !p.info.ReadOnly {
		if err = unix.Fdatasync(int(p.f.Fd())); err != nil {
			err = fmt.Errorf("disk %s: sync: %w", p.f.Name(), err)
		}
	}
	return errors.Join(err, unlockFile(p.f), p.f.Close())
}

// submit implements Disk.
func (p *plain) submit(r *Request) {
	io := &r.io
	io.FD, io.Dsync = p.fd, false
	switch r.Op {
	case OpRead, OpWrite:
		sectors := r.Bytes >> SectorShift
		switch {
		case r.Op == OpWrite && p.info.ReadOnly:
			p.fail(r, ErrReadOnly)
			return
		case r.Bytes&(SectorSize-1) != 0 || !p.inside(r.Sector, sectors):
			p.fail(r, ErrRange)
			return
		case sectors == 0:
			r.lane.finish(r, nil)
			return
		}
		io.Code, r.step = engine.Readv, stepEnd
		if r.Op == OpWrite {
			io.Code, io.Dsync = engine.Writev, r.Stable
		}
		io.Off, io.Len, io.Iov = int64(r.Sector)<<SectorShift, int64(r.Bytes), r.Iov
		if p.faults.strike(r, r.Sector, sectors) && !r.cutShort() {
			p.fail(r, r.fate.err)
			return
		}
	case OpFlush:
		if p.faults.strike(r, 0, 0) {
			p.fail(r, r.fate.err) // of this flush alone: no sync has failed
			return
		}
		p.sync(r)
		return
	case opCommit:
		p.sync(r)
		return
	case OpDiscard, OpWriteZeroes:
		if p.info.ReadOnly {
			p.fail(r, ErrReadOnly)
			return
		}
		for _, seg := range r.Ranges {
			if !p.inside(seg.Sector, uint64(seg.Sectors)) || seg.Sectors > maxRangeSectors {
				p.fail(r, ErrRange)
				return
			}
		}
		r.seg = 0
		p.nextRange(r)
		return
	default:
		p.fail(r, ErrUnsupported)
		return
	}
	r.lane.move(r, p.reach)
}

// inside says whether the range lies on the disk and is whole logical blocks.
func (p *plain) inside(sector, sectors uint64) bool {
	block, capacity := uint64(p.info.LogicalBlockSize)>>SectorShift, p.capacity.Load()
	return (sector|sectors)&(block-1) == 0 && sector <= capacity && sectors <= capacity-sector
}

// nextRange starts on the next segment, or ends the request when none is left.
func (p *plain) nextRange(r *Request) {
	for int(r.seg) < len(r.Ranges) && r.Ranges[r.seg].Sectors == 0 {
		r.seg++
	}
	io := &r.io
	if int(r.seg) == len(r.Ranges) {
		if !r.Stable {
			r.lane.finish(r, nil)
			return
		}
		p.sync(r)
		return
	}
	seg := &r.Ranges[r.seg]
	io.Code = engine.ZeroRange
	if r.Op == OpDiscard || seg.Unmap {
		io.Code = engine.PunchHole
	}
	io.Off, io.Len = int64(seg.Sector)<<SectorShift, int64(seg.Sectors)<<SectorShift
	r.step = stepRange
	r.lane.eng.Queue(io)
}

// sync ends r once all that was done before is durable.
func (p *plain) sync(r *Request) {
	if lost := p.lost.Load(); lost != nil {
		p.fail(r, fmt.Errorf("%w: %w", ErrIO, errLost(*lost)))
		return
	}
	r.io.Code, r.io.Off, r.io.Len, r.step = engine.Fdatasync, 0, 0, stepSync
	r.lane.eng.Queue(&r.io)
}

// ioDone implements Disk.
func (p *plain) ioDone(r *Request) {
	if r.step == stepHeld {
		r.lane.finish(r, r.Err)
		return
	}
	err := r.io.Err
	if r.step == stepRange {
		switch {
		case err == unix.EOPNOTSUPP && r.Op == OpDiscard:
			err = nil // a discard is advice
		case err == unix.EOPNOTSUPP && r.io.Code == engine.PunchHole:
			r.io.Code = engine.ZeroRange // the zeroes are a promise, the space is not
			r.lane.eng.Queue(&r.io)
			return
		}
		if err == nil {
			r.seg++
			p.nextRange(r)
			return
		}
	}
	if err != nil {
		if r.step == stepSync {
			lost := err // of its own, or every err would be allocated
			p.lost.CompareAndSwap(nil, &lost)
		}
		p.fail(r, fmt.Errorf("%w: %w", ErrIO, err))
		return
	}
	if r.fate != nil && r.fate.err != nil {
		p.fail(r, r.fate.err)
		return
	}
	r.lane.finish(r, nil)
}

func (p *plain) fail(r *Request, err error) {
	r.lane.finish(r, &RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: -1, Err: err})
}
