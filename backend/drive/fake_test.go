package drive

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// A fakeDevice is a zoned block device in memory, with the manners of the
// kernel's: a write that is not at the write pointer fails with EIO, and so does
// whatever a zone's state does not allow; resources that are used up are
// EOVERFLOW and ETOOMANYREFS. Its rules are the independent model's.
type fakeDevice struct {
	mu sync.Mutex
	m  *zonemodel.Model
	// fault is asked before each Op: an error, and how many bytes land all the
	// same.
	fault func(op *engine.Op) (landed int64, err error)
	ops   []engine.Op // that were carried out
	moves int         // how many of them could change a zone
	gone  bool
	// cached says that it has a cached report, with what Linux 6.19 to 7.3 put there.
	cached bool
}

// A fakeDrive is a drive over a fakeDevice.
type fakeDrive struct {
	*Drive
	dev     *fakeDevice
	reports *disk.Lane // of ReportZone
	asked   int        // dev.moves when it last was asked for all zones
	// shuffle, when set, has Ops end in any order, a few at a time.
	shuffle *rand.Rand
}

func newFakeDrive(t disktest.TB, g zone.Geometry, states map[int]zone.State, w *disk.Window) *fakeDrive {
	t.Helper()
	if err := g.Complete(); err != nil {
		t.Fatal(err)
	}
	dev := &fakeDevice{m: disktest.NewModel(g).Model}
	for i, s := range states {
		dev.m.SetState(i, zonemodel.State(s))
	}
	return openFakeDrive(t, g, dev, w, false)
}

func openFakeDrive(t disktest.TB, g zone.Geometry, dev *fakeDevice, w *disk.Window, readOnly bool) *fakeDrive {
	t.Helper()
	if err := g.Complete(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("device", unix.MFD_CLOEXEC) // to lock and to sync
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "device")
	d := &Drive{f: f, path: "fake"}
	all, err := reportZones(dev.ask, g.CapacitySectors, true)
	if err == nil {
		all, err = d.cut(all, w)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.info = disk.Describe(&g, readOnly)
	d.info.MaxEraseSectors = 0
	d.info.Zoned.Zones, d.info.Zoned.Moves = len(all), true
	d.info.CapacitySectors = all[len(all)-1].start + all[len(all)-1].length - d.first
	d.partBytes, d.partPages = 1<<30, 1<<18
	d.maxBatch, d.reach = uint64(g.MaxAppendSectors)<<disk.SectorShift, disk.Reach{Address: 7, Length: uint64(d.info.LogicalBlockSize) - 1}
	d.take(all)
	fake := &fakeDrive{Drive: d, dev: dev}
	if fake.reports, err = disk.NewLane(fake.TestEngine); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(fake.reports.Close(), d.Close()); err != nil && (d.lost.Load() == nil || !strings.Contains(err.Error(), "earlier sync failed")) {
			t.Error(err)
		}
	})
	return fake
}

// TestEngine is what newClient drives it with.
func (d *fakeDrive) TestEngine(func()) (engine.Engine, error) {
	return &fakeEngine{dev: d.dev, rnd: d.shuffle}, nil
}

// ReportZone asks as a guest's report does, so that suites see what guests see.
// While nothing happens one report tells of all zones.
func (d *fakeDrive) ReportZone(i int) zone.Descriptor {
	d.dev.mu.Lock()
	moves := d.dev.moves
	d.dev.mu.Unlock()
	if moves != d.asked {
		if err := d.refresh(); err != nil {
			panic(err)
		}
		d.asked = moves
	}
	return d.Drive.ReportZone(i)
}

// refresh brings all zones up to date.
func (d *fakeDrive) refresh() error {
	r := &disk.Request{Op: disk.OpReport, Bytes: uint64(len(d.zones))}
	d.reports.Submit(d, r)
	for d.reports.Done() == nil {
		d.reports.Start()
	}
	return r.Err
}

// held is a client whose Ops that hold says are carried out when the test
// releases them.
func (d *fakeDrive) held(t disktest.TB, hold func(*engine.Op) bool) (*disktest.Client, *fakeEngine) {
	t.Helper()
	e := &fakeEngine{dev: d.dev, hold: hold}
	return disktest.NewClientOn(t, d, func(func()) (engine.Engine, error) { return e, nil }), e
}

type fakeEngine struct {
	dev            *fakeDevice
	rnd            *rand.Rand
	staged, queued []*engine.Op
	done           []*engine.Op
	hold           func(*engine.Op) bool
	kept           []*engine.Op
}

// release carries out the oldest Op that is held.
func (e *fakeEngine) release() {
	op := e.kept[0]
	e.kept = e.kept[1:]
	e.dev.do(op)
	e.done = append(e.done, op)
}

func (e *fakeEngine) Queue(op *engine.Op) { e.staged = append(e.staged, op) }

func (e *fakeEngine) Submit() {
	for _, op := range e.staged {
		if e.hold != nil && e.hold(op) {
			e.kept = append(e.kept, op)
		} else {
			e.queued = append(e.queued, op)
		}
	}
	e.staged = e.staged[:0]
	n := len(e.queued)
	if e.rnd != nil && n > 1 {
		e.rnd.Shuffle(n, func(i, j int) { e.queued[i], e.queued[j] = e.queued[j], e.queued[i] })
		n = 1 + e.rnd.IntN(n)
	}
	for _, op := range e.queued[:n] {
		e.dev.do(op)
		e.done = append(e.done, op)
	}
	e.queued = e.queued[n:]
}

func (e *fakeEngine) Wait(fds []unix.PollFd) { engine.Poll(fds) }

func (e *fakeEngine) Err() error { return nil }

func (e *fakeEngine) Reap() *engine.Op {
	if len(e.done) == 0 {
		return nil
	}
	op := e.done[0]
	e.done = e.done[1:]
	return op
}

func (e *fakeEngine) Close() error { return nil }

// do carries op out.
func (v *fakeDevice) do(op *engine.Op) {
	v.mu.Lock()
	defer v.mu.Unlock()
	op.N, op.Err = 0, nil
	v.ops = append(v.ops, *op)
	if op.Code != engine.Readv && op.Code != engine.ZoneReport {
		v.moves++
	}
	length := op.Len
	var fail error
	if v.fault != nil {
		if landed, err := v.fault(op); err != nil {
			length, fail = landed, err
		}
	}
	if v.gone {
		length, fail = 0, unix.ENXIO
	}
	if fail == nil || length > 0 {
		if err := v.carryOut(op, length); err != nil {
			op.Err = err
			return
		}
	}
	if op.Err = fail; fail == nil { // else the kernel does not say how far it came
		op.N = length
	}
}

func (v *fakeDevice) carryOut(op *engine.Op, length int64) error {
	sector := uint64(op.Off) >> disk.SectorShift
	switch op.Code {
	case engine.Readv:
		data := v.m.Data(sector, uint64(length))
		if _, z := v.m.ZoneOf(sector); z.State == zonemodel.Offline {
			return unix.EIO
		}
		return iovec.Scatter(op.Iov, 0, data)
	case engine.Writev:
		data := make([]byte, length)
		if err := iovec.Gather(data, op.Iov, 0); err != nil {
			return err
		}
		return errnoOf(v.m.Do(zonemodel.Request{Type: zonemodel.TypeOut, Sector: sector, Data: data}).Status)
	case engine.Fdatasync:
		return nil
	case engine.ZoneReport:
		v.report(unsafe.Slice(op.Iov[0].Base, op.Iov[0].Len), sector)
		return nil
	}
	types := map[engine.Code]uint32{
		engine.ZoneOpen: zonemodel.TypeZoneOpen, engine.ZoneClose: zonemodel.TypeZoneClose,
		engine.ZoneFinish: zonemodel.TypeZoneFinish, engine.ZoneReset: zonemodel.TypeZoneReset,
	}
	if op.Code == engine.ZoneReset && sector == 0 && uint64(op.Len)>>disk.SectorShift == v.m.CapacitySectors {
		return errnoOf(v.m.Do(zonemodel.Request{Type: zonemodel.TypeZoneResetAll}).Status)
	}
	for end := sector + uint64(op.Len)>>disk.SectorShift; sector < end; sector += v.m.ZoneSectors {
		if err := errnoOf(v.m.Do(zonemodel.Request{Type: types[op.Code], Sector: sector}).Status); err != nil {
			return err
		}
	}
	return nil
}

func errnoOf(s zonemodel.Status) error {
	switch s {
	case zonemodel.OK:
		return nil
	case zonemodel.OpenResource:
		return unix.ETOOMANYREFS
	case zonemodel.ActiveResource:
		return unix.EOVERFLOW
	}
	return unix.EIO
}

// report lays out struct blk_zone_report.
func (v *fakeDevice) report(b []byte, sector uint64) {
	ne := binary.NativeEndian
	first, _ := v.m.ZoneOf(sector)
	n := min(len(v.m.Zones)-first, (len(b)-engine.ZoneReportBytes)/engine.ZoneBytes)
	ne.PutUint64(b, sector)
	ne.PutUint32(b[8:], uint32(n))
	ne.PutUint32(b[12:], 1)
	for i := range n {
		z := v.m.Descriptor(first + i)
		e := b[engine.ZoneReportBytes+i*engine.ZoneBytes:][:engine.ZoneBytes]
		clear(e)
		ne.PutUint64(e, z.Start)
		ne.PutUint64(e[8:], z.Length)
		ne.PutUint64(e[16:], z.WP)
		e[24], e[25] = uint8(zone.SequentialWriteRequired), uint8(z.State)
		if z.Conventional {
			e[24] = uint8(zone.Conventional)
		}
		ne.PutUint64(e[32:], z.Capacity)
	}
}

// ask implements reporter.
func (v *fakeDevice) ask(sector uint64, b []byte, cached bool) error {
	if cached && !v.cached {
		return unix.ENOTTY
	}
	v.report(b, sector)
	for e := b[engine.ZoneReportBytes:]; cached && len(e) >= engine.ZoneBytes; e = e[engine.ZoneBytes:] {
		switch s := zone.State(e[25]); {
		case s.IsActive() && binary.NativeEndian.Uint64(e[16:]) > binary.NativeEndian.Uint64(e):
			e[25] = uint8(condActive)
		case s.IsActive():
			e[25] = uint8(zone.Empty)
		}
	}
	return nil
}

// A written is one write that a device was sent, in sectors from its start.
type written struct {
	at, sectors uint64
	stable      bool
}

// writes are the writes that the device was sent.
func (v *fakeDevice) writes() (all []written) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.ops {
		if op := &v.ops[i]; op.Code == engine.Writev {
			all = append(all, written{uint64(op.Off) >> disk.SectorShift, uint64(op.Len) >> disk.SectorShift, op.Dsync})
		}
	}
	return all
}

// count is how many Ops of this sort the device was sent.
func (v *fakeDevice) count(code engine.Code) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.ops {
		if v.ops[i].Code == code {
			n++
		}
	}
	return n
}

// set puts zone i into state s, as devices do by themselves.
func (v *fakeDevice) set(i int, s zone.State) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m.SetState(i, zonemodel.State(s))
	v.moves++
}

// failing makes the next Ops of this sort fail with these errors, one each; nil
// lets one pass. Of those that fail landed sectors arrive all the same.
func (v *fakeDevice) failing(code engine.Code, landed int64, errs ...error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fault = func(op *engine.Op) (int64, error) {
		if op.Code != code || len(errs) == 0 {
			return 0, nil
		}
		err := errs[0]
		errs = errs[1:]
		return landed << disk.SectorShift, err
	}
}
