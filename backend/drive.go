package backend

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// drive is a zoned block device of the host, or a window of its zones.
//
// The device itself keeps the write pointers; what stands here is what it was
// last known to have. It takes the writes of a zone in order only, so each zone
// has one I/O in flight, and a line of those that wait for it: see
// drive_write.go. Open and active zones are the device's to count.
type drive struct {
	f     *os.File
	path  string
	info  Info
	rules rules
	first uint64 // sector of the device where the window begins
	whole bool   // the window is all of the device
	size  uint64 // sectors of a zone, but for the device's last one
	zones []driveZone

	maxBatch  uint64 // most bytes of writes that are made one
	reach     reach
	partBytes uint64 // most bytes that the device takes at once
	partPages uint64 // most pages of memory that it takes at once, 2 or more

	device deviceLock
	asked  atomic.Uint64 // how often the drive was asked for a report
	faults Faults
	lost   atomic.Pointer[error] // a sync has failed: see errLost

	claims struct {
		mu    sync.Mutex // guards of; taken with a zone's lock held
		of    map[*Mark]driveClaim
		steps int // past other claims, to find the places of new ones
	}
}

// A driveZone is one zone at work.
type driveZone struct {
	// word is what guests see. It is stored with mu held and loaded without.
	of               *drive
	word             atomic.Uint64
	sectors, capSecs uint64
	typ              zone.Type

	mu    sync.Mutex // guards what follows; never held across I/O
	busy  bool       // an I/O is in flight that has the zone to itself
	since uint64     // how often the drive had been asked when busy last changed
	stale bool       // word may be wrong: the drive has to be asked first
	stand bool       // a lane has the line begin to move with its next Start
	line  reqList    // who waits for the zone, first come first served
	// What is to be finished before anything else: how many claims there are whose
	// requests have not come, and requests that have. claimed is where, in the order of
	// the addresses, until all have come (drive_resume.go).
	owed    int
	claimed []driveClaim
	again   []*driveRequest
}

// openDrive opens the zoned block device at path, or a window of it.
func openDrive(path string, o Options) (_ *drive, err error) {
	mode := os.O_RDWR
	if o.ReadOnly || o.LookOnly {
		mode = os.O_RDONLY
	}
	var f *os.File
	if o.Window == nil && !o.LookOnly {
		// A device that is mounted, or part of another one, is not ours. Windows
		// are shared among daemons, so there the locks have to do.
		f, err = openExclusively(path, mode|unix.O_DIRECT)
	} else {
		f, err = os.OpenFile(path, mode|unix.O_DIRECT, 0)
	}
	if err == nil && mode == os.O_RDWR {
		err = writable(f)
	}
	if IsInUse(err) {
		return nil, fmt.Errorf("drive %s %w", path, err)
	} else if err != nil {
		return nil, cannotOpen("drive", path, err)
	}
	d := &drive{f: f, path: path}
	if err = d.survey(o, true); err == nil && !o.LookOnly { // a guest's report asks the drive again
		err = d.claim()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("drive %s: %w", path, err), f.Close())
	}
	return d, nil
}

// survey finds out what the device is, and takes its zones or those of the
// window, as the kernel knows them or as the device says (reportZones).
func (d *drive) survey(o Options, cached bool) error {
	fd := int(d.f.Fd())
	sectors, err := deviceSectors(fd)
	if err != nil {
		return err
	}
	all, err := reportZones(reporterOf(fd), sectors, cached)
	if err != nil {
		return err
	}
	window, err := d.cut(all, o.Window)
	if err != nil {
		return err
	}
	if err := d.limits(o, window); err != nil {
		return err
	}
	d.take(window)
	return nil
}

// cut returns the zones of the window w, nil for all of them.
func (d *drive) cut(all []kernelZone, w *Window) ([]kernelZone, error) {
	if len(all) == 0 {
		return nil, unfitf("it has no zones")
	}
	last := len(all) - 1
	if w == nil {
		w = &Window{0, last}
	}
	if w.First < 0 || w.First > w.Last || w.Last > last {
		return nil, unfitf("zones %d-%d: it has zones 0 to %d", w.First, w.Last, last)
	}
	size := all[0].length
	for i, z := range all {
		if z.length != size && (i != last || z.length > size) {
			return nil, unfitf("zone %d has %d sectors and not %d as the first one: only the last zone may be smaller", i, z.length, size)
		}
	}
	if bits.OnesCount64(size) != 1 {
		return nil, unfitf("zones of %d sectors: the size must be a power of two", size)
	}
	d.whole = w.First == 0 && w.Last == last
	d.first, d.size = all[w.First].start, size
	return all[w.First : w.Last+1], nil
}

// take makes these zones, whose limits are known, the disk's.
func (d *drive) take(zones []kernelZone) {
	d.rules = newRules(d.info)
	d.zones = make([]driveZone, len(zones))
	for i, k := range zones {
		z := &d.zones[i]
		z.of, z.typ, z.sectors, z.capSecs = d, k.typ, k.length, k.capacity
		z.word.Store(uint64(k.entry(i)))
		// A guest may have opened it in the time of another daemon. To ask the drive
		// about all such zones now would take as long as a report of all of it does.
		z.stale = k.state == condUnwritten
	}
	d.faults.refuse = "a real drive has faults of its own: they can be asked of images and ordinary disks"
}

// limits fills in what the device can do.
func (d *drive) limits(o Options, zones []kernelZone) error {
	block, physical, err := blockSizes(d.f)
	if err != nil {
		return err
	}
	d.info.ReadOnly = o.ReadOnly
	if o.BlockSize != 0 && o.BlockSize != block {
		return unfitf("it has blocks of %d bytes, and a zoned drive has no others: leave --block-size %d out", block, o.BlockSize)
	}
	return d.describe(zones, block, physical, limitsOf(d.f))
}

// describe is limits of a device with these block sizes and this queue.
func (d *drive) describe(zones []kernelZone, block, physical uint32, q *queueLimits) error {
	granularity := max(q.get("zone_write_granularity", 0), uint64(block))
	// An append is written like anything else, so where the kernel names no limit
	// for appends that of writes will do.
	longest := q.get("max_hw_sectors_kb", 512) << 10
	appendBytes := q.get("zone_append_max_bytes", 0)
	if appendBytes == 0 {
		appendBytes = longest
	}
	for _, z := range zones {
		if z.typ == zone.SequentialWriteRequired && z.length == d.size { // a small last one limits itself
			appendBytes = min(appendBytes, z.capacity<<SectorShift)
		}
	}
	d.maxBatch = max(appendBytes, granularity)
	d.partBytes = max(min(q.get("max_sectors_kb", longest>>10)<<10, longest)&^(granularity-1), granularity)
	d.partPages = max(q.get("max_segments", 128), 2)
	d.reach = reach{address: q.get("dma_alignment", uint64(block)-1), length: uint64(block) - 1}
	last := zones[len(zones)-1]
	d.info.CapacitySectors = last.start + last.length - d.first
	d.info.LogicalBlockSize, d.info.PhysicalBlockSize = block, max(physical, block)
	d.info.Zoned = &ZonedInfo{
		Zones: len(zones), ZoneSectors: d.size,
		MaxOpen: uint32(q.get("max_open_zones", 0)), MaxActive: uint32(q.get("max_active_zones", 0)),
		MaxAppendSectors: uint32(appendBytes &^ (granularity - 1) >> SectorShift),
		WriteGranularity: uint32(granularity),
		Moves:            true,
	}
	return q.err
}

// lock is a lock on the zones of the window: an open file description lock on
// those bytes of the device's node (fcntl(2)).
func (d *drive) lock(how int16) unix.Flock_t {
	return unix.Flock_t{Type: how, Start: d.offset(0), Len: int64(d.info.CapacitySectors) << SectorShift}
}

// claim keeps the zones of the window from being served twice.
func (d *drive) claim() error {
	how := int16(unix.F_WRLCK)
	if d.info.ReadOnly {
		how = unix.F_RDLCK
	}
	lk := d.lock(how)
	err := unix.FcntlFlock(d.f.Fd(), unix.F_OFD_SETLK, &lk)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return &InUseError{said: "zones of it are served already, by another zvhost or QEMU; stop that first, or choose other --zones"}
	} else if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

// ReadDriveReport reads the zones of the zoned block device at path, or of a
// window of it, as the device has them; they are numbered from the window's
// first one. It disturbs nobody who serves them.
func ReadDriveReport(path string, w *Window) (Report, error) {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return Report{}, cannotOpen("drive", path, err)
	}
	defer f.Close()
	d := &drive{f: f, path: path}
	if err := d.survey(Options{ReadOnly: true, Window: w}, false); err != nil {
		return Report{}, fmt.Errorf("drive %s: %w", path, err)
	}
	lk := d.lock(unix.F_RDLCK)
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
		return Report{}, fmt.Errorf("drive %s: look at the lock: %w", path, err)
	}
	rep := Report{Info: d.info, InUse: lk.Type == unix.F_WRLCK, Zones: make([]zone.Descriptor, len(d.zones))}
	for i := range rep.Zones {
		rep.Zones[i] = d.ReportZone(i)
	}
	return rep, nil
}

// Info implements Disk.
func (d *drive) Info() Info { return d.info }

// Faults implements Disk.
func (d *drive) Faults() *Faults { return &d.faults }

// entry, conventional, length and capacity implement zoneTable.
func (d *drive) entry(i int) zone.Entry  { return zone.Entry(d.zones[i].word.Load()) }
func (d *drive) conventional(i int) bool { return d.zones[i].typ == zone.Conventional }
func (d *drive) length(i int) uint64     { return d.zones[i].sectors }
func (d *drive) capacity(i int) uint64   { return d.zones[i].capSecs }

// ReportZone implements Disk. An OpReport before it brings it up to date.
func (d *drive) ReportZone(i int) zone.Descriptor {
	z := &d.zones[i]
	return zone.Describe(uint64(i)<<d.rules.shift, z.sectors, z.capSecs, z.typ, d.entry(i))
}

// Close implements Disk.
func (d *drive) Close() error {
	var err error
	switch lost := d.lost.Load(); {
	case lost != nil: // the kernel tells it once: this sync would succeed
		err = fmt.Errorf("drive %s: %w", d.path, errLost(*lost))
	case !d.info.ReadOnly:
		if err = unix.Fdatasync(int(d.f.Fd())); err != nil {
			err = fmt.Errorf("drive %s: sync: %w", d.path, err)
		}
	}
	return errors.Join(err, d.f.Close())
}

// offset is where a sector of the disk stands on the device, in bytes.
func (d *drive) offset(sector uint64) int64 { return int64(d.first+sector) << SectorShift }

// submit implements Disk.
func (d *drive) submit(q *Request) {
	r := driveOf(q)
	switch r.Op {
	case OpRead:
		d.read(r)
	case OpWrite, OpAppend:
		d.write(r)
	case OpFlush, opCommit:
		d.sync(r)
	case OpOpen, OpClose, OpFinish, OpReset:
		d.manage(r)
	case OpResetAll:
		if d.info.ReadOnly {
			d.fail(r, ErrReadOnly)
			return
		}
		d.holdFrom(r, 0)
	case OpReport:
		d.report(r)
	default:
		d.fail(r, ErrUnsupported)
	}
}

// ioDone implements Disk.
func (d *drive) ioDone(q *Request) { d.goOn(driveOf(q)) }

func (d *drive) goOn(r *driveRequest) {
	switch r.step {
	case driveRead:
		d.readDone(r)
	case driveAdmitted:
		d.issue(r)
	case driveWrote:
		d.wrote(r)
	case driveUnknown:
		d.look(r, driveReread, int(r.zone), int(r.zone)+1)
	case driveAllowed:
		d.issueManage(r)
	case driveManaged:
		d.managed(r)
	case driveReread:
		d.reread(r)
	case driveHeld:
		d.holdFrom(r, int(r.zone)+1)
	case driveReset:
		d.resetRunDone(r)
	case driveReport:
		d.reportFrom(r, int(r.zone))
	case driveReported:
		d.reported(r)
	case driveSynced:
		d.synced(r)
	}
}

// sync ends r once all that was done before is durable.
func (d *drive) sync(r *driveRequest) {
	switch lost := d.lost.Load(); {
	case lost != nil:
		d.fail(r, fmt.Errorf("%w: %w", ErrIO, errLost(*lost)))
	case d.info.ReadOnly:
		r.finish(nil)
	default:
		r.io.Code, r.io.FD, r.io.Off, r.io.Len, r.step = engine.Fdatasync, int(d.f.Fd()), 0, 0, driveSynced
		r.start()
	}
}

func (d *drive) synced(r *driveRequest) {
	if err := r.io.Err; err != nil {
		lost := err
		d.lost.CompareAndSwap(nil, &lost)
	}
	d.end(r, r.io.Err)
}

// fail ends r, on its lane, with a sentinel.
func (d *drive) fail(r *driveRequest, err error) { r.finish(d.errorOf(r, err)) }

// end ends r, on its lane, with the outcome of I/O.
func (d *drive) end(r *driveRequest, err error) {
	if err != nil {
		err = d.errorOf(r, driveError(err))
	}
	r.finish(err)
}

func (d *drive) errorOf(r *driveRequest, err error) error { return d.rules.errorOf(r.Request, err) }

// driveError is the sentinel for what the kernel says (blk_errors in
// block/blk-core.c: BLK_STS_ZONE_ACTIVE_RESOURCE is EOVERFLOW and
// BLK_STS_ZONE_OPEN_RESOURCE ETOOMANYREFS). All else is the drive's failure.
func driveError(err error) error {
	switch {
	case errors.Is(err, unix.EOVERFLOW):
		return fmt.Errorf("%w: %w", zone.ErrActiveLimit, err)
	case errors.Is(err, unix.ETOOMANYREFS):
		return fmt.Errorf("%w: %w", zone.ErrOpenLimit, err)
	}
	return fmt.Errorf("%w: %w", ErrIO, err)
}
