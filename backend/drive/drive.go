package drive

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// Drive is a zoned block device of the host, or a window of its zones.
//
// The device itself keeps the write pointers; what stands here is what it was
// last known to have. It takes the writes of a zone in order only, so each zone
// has one I/O in flight, and a line of those that wait for it: see
// write.go. Open and active zones are the device's to count.
type Drive struct {
	f     *os.File
	path  string
	info  disk.Info
	rules disk.Rules
	first uint64 // sector of the device where the window begins
	whole bool   // the window is all of the device
	size  uint64 // sectors of a zone, but for the device's last one
	zones []driveZone

	maxBatch  uint64 // most bytes of writes that are made one
	reach     disk.Reach
	partBytes uint64 // most bytes that the device takes at once
	partPages uint64 // most pages of memory that it takes at once, 2 or more

	device deviceLock
	asked  atomic.Uint64 // how often the drive was asked for a report
	faults disk.Faults
	lost   atomic.Pointer[error] // a sync has failed: see disk.LostData

	claims struct {
		mu    sync.Mutex // guards of; taken with a zone's lock held
		of    map[*disk.Note]driveClaim
		steps int // past other claims, to find the places of new ones
	}
}

// A driveZone is one zone at work.
type driveZone struct {
	// word is what guests see. It is stored with mu held and loaded without.
	of               *Drive
	word             atomic.Uint64
	sectors, capSecs uint64
	typ              zone.Type

	mu      sync.Mutex // guards what follows; never held across I/O
	busy    bool       // an I/O is in flight that has the zone to itself
	since   uint64     // how often the drive had been asked when busy last changed
	stale   bool       // word may be wrong: the drive has to be asked first
	waiting bool       // a lane has the line begin to move with its next Start
	line    disk.List  // who waits for the zone, first come first served
	// What is to be finished before anything else: how many claims there are whose
	// requests have not come, and requests that have. claimed is where, in the order of
	// the addresses, until all have come (resume.go).
	owed     int
	changing bool // the claim is of a request that was about to change the zone
	claimed  []driveClaim
	again    []*request
}

// Open opens the zoned block device at path, or a window of it, and locks these zones. The
// error satisfies disk.IsInUse if another process uses them, and wraps disk.ErrUnfit if the
// device or the window cannot be a disk.
func Open(path string, o disk.Options) (_ *Drive, err error) {
	mode := os.O_RDWR
	if o.ReadOnly || o.LookOnly {
		mode = os.O_RDONLY
	}
	var f *os.File
	if o.Window == nil && !o.LookOnly {
		// A device that is mounted, or part of another one, is not ours. Windows
		// are shared among daemons, so there the locks have to do.
		f, err = disk.OpenExclusively(path, mode|unix.O_DIRECT)
	} else {
		f, err = os.OpenFile(path, mode|unix.O_DIRECT, 0)
	}
	if err == nil && mode == os.O_RDWR {
		err = disk.Writable(f)
	}
	if disk.IsInUse(err) {
		return nil, fmt.Errorf("drive %s %w", path, err)
	} else if err != nil {
		return nil, disk.CannotOpen("drive", path, err)
	}
	d := &Drive{f: f, path: path}
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
func (d *Drive) survey(o disk.Options, cached bool) error {
	fd := int(d.f.Fd())
	sectors, err := disk.DeviceSectors(fd)
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
func (d *Drive) cut(all []kernelZone, w *disk.Window) ([]kernelZone, error) {
	if len(all) == 0 {
		return nil, disk.Unfitf("it has no zones")
	}
	last := len(all) - 1
	if w == nil {
		w = &disk.Window{First: 0, Last: last}
	}
	if w.First < 0 || w.First > w.Last || w.Last > last {
		return nil, disk.Unfitf("zones %d-%d: it has zones 0 to %d", w.First, w.Last, last)
	}
	size := all[0].length
	for i, z := range all {
		if z.length != size && (i != last || z.length > size) {
			return nil, disk.Unfitf("zone %d has %d sectors and not %d as the first one: only the last zone may be smaller", i, z.length, size)
		}
	}
	if bits.OnesCount64(size) != 1 {
		return nil, disk.Unfitf("zones of %d sectors: the size must be a power of two", size)
	}
	d.whole = w.First == 0 && w.Last == last
	d.first, d.size = all[w.First].start, size
	return all[w.First : w.Last+1], nil
}

// take makes these zones, whose limits are known, the disk's.
func (d *Drive) take(zones []kernelZone) {
	d.rules = disk.NewRules(d.info)
	d.zones = make([]driveZone, len(zones))
	for i, k := range zones {
		z := &d.zones[i]
		z.of, z.typ, z.sectors, z.capSecs = d, k.typ, k.length, k.capacity
		z.word.Store(uint64(k.entry(i)))
		// A guest may have opened it in the time of another daemon. To ask the drive
		// about all such zones now would take as long as a report of all of it does.
		z.stale = k.state == condUnwritten
	}
	d.faults.Refuse = "a real drive has faults of its own: they can be asked of images and ordinary disks"
}

// limits fills in what the device can do.
func (d *Drive) limits(o disk.Options, zones []kernelZone) error {
	block, physical, err := disk.BlockSizes(d.f)
	if err != nil {
		return err
	}
	d.info.ReadOnly = o.ReadOnly
	if o.BlockSize != 0 && o.BlockSize != block {
		return disk.Unfitf("it has blocks of %d bytes, and a zoned drive has no others: leave --block-size %d out", block, o.BlockSize)
	}
	return d.describe(zones, block, physical, disk.LimitsOf(d.f))
}

// describe is limits of a device with these block sizes and this queue.
func (d *Drive) describe(zones []kernelZone, block, physical uint32, q *disk.QueueLimits) error {
	granularity := max(q.Get("zone_write_granularity", 0), uint64(block))
	// An append is written like anything else, so where the kernel names no limit
	// for appends that of writes will do.
	longest := q.Get("max_hw_sectors_kb", 512) << 10
	appendBytes := q.Get("zone_append_max_bytes", 0)
	if appendBytes == 0 {
		appendBytes = longest
	}
	for _, z := range zones {
		if z.typ == zone.SequentialWriteRequired && z.length == d.size { // a small last one limits itself
			appendBytes = min(appendBytes, z.capacity<<disk.SectorShift)
		}
	}
	d.maxBatch = max(appendBytes, granularity)
	d.partBytes = max(min(q.Get("max_sectors_kb", longest>>10)<<10, longest)&^(granularity-1), granularity)
	d.partPages = max(q.Get("max_segments", 128), 2)
	d.reach = disk.Reach{Address: q.Get("dma_alignment", uint64(block)-1), Length: uint64(block) - 1}
	last := zones[len(zones)-1]
	d.info.CapacitySectors = last.start + last.length - d.first
	d.info.LogicalBlockSize, d.info.PhysicalBlockSize = block, max(physical, block)
	d.info.Zoned = &disk.ZonedInfo{
		Zones: len(zones), ZoneSectors: d.size,
		MaxOpen: uint32(q.Get("max_open_zones", 0)), MaxActive: uint32(q.Get("max_active_zones", 0)),
		MaxAppendSectors: uint32(appendBytes &^ (granularity - 1) >> disk.SectorShift),
		WriteGranularity: uint32(granularity),
		Moves:            true,
	}
	return q.Err
}

// lock is a lock on the zones of the window: an open file description lock on
// those bytes of the device's node (fcntl(2)).
func (d *Drive) lock(how int16) unix.Flock_t {
	return unix.Flock_t{Type: how, Start: d.offset(0), Len: int64(d.info.CapacitySectors) << disk.SectorShift}
}

// claim keeps the zones of the window from being served twice.
func (d *Drive) claim() error {
	how := int16(unix.F_WRLCK)
	if d.info.ReadOnly {
		how = unix.F_RDLCK
	}
	lk := d.lock(how)
	err := unix.FcntlFlock(d.f.Fd(), unix.F_OFD_SETLK, &lk)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return &disk.InUseError{Text: "zones of it are served already, by another zvhost or QEMU; stop that first, or choose other --zones"}
	} else if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

// Info implements Disk.
func (d *Drive) Info() disk.Info { return d.info }

// Faults implements Disk.
func (d *Drive) Faults() *disk.Faults { return &d.faults }

// Entry, Conventional, Length and Capacity are what disk.Rules needs of the zones.
func (d *Drive) Entry(i int) zone.Entry  { return zone.Entry(d.zones[i].word.Load()) }
func (d *Drive) Conventional(i int) bool { return d.zones[i].typ == zone.Conventional }
func (d *Drive) Length(i int) uint64     { return d.zones[i].sectors }
func (d *Drive) Capacity(i int) uint64   { return d.zones[i].capSecs }

// ReportZone implements Disk. An OpReport before it brings it up to date.
func (d *Drive) ReportZone(i int) zone.Descriptor {
	z := &d.zones[i]
	return zone.Describe(uint64(i)<<d.rules.Shift, z.sectors, z.capSecs, z.typ, d.Entry(i))
}

// Close implements disk.Disk. It returns an error if the last sync or an earlier one has
// failed.
func (d *Drive) Close() error {
	var err error
	switch lost := d.lost.Load(); {
	case lost != nil: // the kernel tells it once: this sync would succeed
		err = fmt.Errorf("drive %s: %w", d.path, disk.LostData(*lost))
	case !d.info.ReadOnly:
		if err = unix.Fdatasync(int(d.f.Fd())); err != nil {
			err = fmt.Errorf("drive %s: sync: %w", d.path, err)
		}
	}
	return errors.Join(err, d.f.Close())
}

// Release closes the device without a sync: for a drive that was opened with LookOnly. It
// returns the error of close.
func (d *Drive) Release() error { return d.f.Close() }

// offset is where a sector of the disk stands on the device, in bytes.
func (d *Drive) offset(sector uint64) int64 { return int64(d.first+sector) << disk.SectorShift }

// Submit implements Disk.
func (d *Drive) Submit(q *disk.Request) {
	r := requestOf(q)
	switch r.Op {
	case disk.OpRead:
		d.read(r)
	case disk.OpWrite, disk.OpAppend:
		d.write(r)
	case disk.OpFlush, disk.OpCommit:
		d.sync(r)
	case disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset:
		d.manage(r)
	case disk.OpResetAll:
		if d.info.ReadOnly {
			d.fail(r, disk.ErrReadOnly)
			return
		}
		d.holdFrom(r, 0)
	case disk.OpReport:
		d.report(r)
	default:
		d.fail(r, disk.ErrUnsupported)
	}
}

// Continue implements Disk.
func (d *Drive) Continue(q *disk.Request) { d.goOn(requestOf(q)) }

func (d *Drive) goOn(r *request) {
	switch r.step {
	case stepRead:
		d.readDone(r)
	case stepAdmitted:
		d.issue(r)
	case stepWrote:
		d.wrote(r)
	case stepUnknown:
		d.look(r, stepReread, int(r.zone), int(r.zone)+1)
	case stepAllowed:
		d.issueManage(r)
	case stepManaged:
		d.managed(r)
	case stepReread:
		d.reread(r)
	case stepHeld:
		d.holdFrom(r, int(r.zone)+1)
	case stepReset:
		d.resetRunDone(r)
	case stepReport:
		d.reportFrom(r, int(r.zone))
	case stepReported:
		d.reported(r)
	case stepSynced:
		d.synced(r)
	}
}

// sync ends r once all that was done before is durable.
func (d *Drive) sync(r *request) {
	switch lost := d.lost.Load(); {
	case lost != nil:
		d.fail(r, fmt.Errorf("%w: %w", disk.ErrIO, disk.LostData(*lost)))
	case d.info.ReadOnly:
		r.Finish(nil)
	default:
		r.IO.Code, r.IO.FD, r.IO.Off, r.IO.Len, r.step = engine.Fdatasync, int(d.f.Fd()), 0, 0, stepSynced
		r.StartIO()
	}
}

func (d *Drive) synced(r *request) {
	if err := r.IO.Err; err != nil {
		lost := err
		d.lost.CompareAndSwap(nil, &lost)
	}
	d.end(r, r.IO.Err)
}

// fail ends r, on its lane, with a sentinel.
func (d *Drive) fail(r *request, err error) { r.Finish(d.errorOf(r, err)) }

// end ends r, on its lane, with the outcome of I/O.
func (d *Drive) end(r *request, err error) {
	if err != nil {
		err = d.errorOf(r, sentinelOf(err))
	}
	r.Finish(err)
}

func (d *Drive) errorOf(r *request, err error) error { return d.rules.ErrorOf(r.Request, err) }

// sentinelOf is the sentinel for what the kernel says (blk_errors in
// block/blk-core.c: BLK_STS_ZONE_ACTIVE_RESOURCE is EOVERFLOW and
// BLK_STS_ZONE_OPEN_RESOURCE ETOOMANYREFS). All else is the drive's failure.
func sentinelOf(err error) error {
	switch {
	case errors.Is(err, unix.EOVERFLOW):
		return fmt.Errorf("%w: %w", zone.ErrActiveLimit, err)
	case errors.Is(err, unix.ETOOMANYREFS):
		return fmt.Errorf("%w: %w", zone.ErrOpenLimit, err)
	}
	return fmt.Errorf("%w: %w", disk.ErrIO, err)
}
