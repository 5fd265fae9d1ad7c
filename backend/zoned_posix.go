package backend

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
)

// zoned is a host-managed zoned disk over an image file.
//
// A write is admitted under its zone's lock: it gets its address there, and
// joins the zone's list of writes in flight. The data then moves without any
// lock, in parallel with other writes of the zone. When it has landed the lock
// is taken once more, to move the write pointer that guests see.
type zoned struct {
	img    *image.Image
	zinfo  disk.Info
	rules  disk.Rules
	shift  int    // log2 of the zone size in sectors
	conv   uint64 // sectors of conventional zones, from the start of the disk
	zones  []seqZone
	com    *committer // nil on a read-only image
	faults disk.Faults
	edges  *disk.Edged // nil where the storage has no larger blocks than the image

	// broken is set when the live table could not be stored: no write is
	// promised after that.
	broken atomic.Bool

	claims struct {
		mu    sync.Mutex // guards of
		of    map[*disk.Note]*zonedRequest
		steps int // past other writes, to find the places of claims
	}
	givingUp sync.WaitGroup // claims that are given up in a goroutine

	res struct {
		mu sync.Mutex // guards all of res; taken with a zone's lock held
		zone.Resources
		// The implicitly open zones, oldest first, as indices into zones + 1.
		oldest, newest int32
	}
}

// A zone is one sequential zone at work. Sectors are counted from its start.
type seqZone struct {
	// word is the table entry that guests and readers see. It is stored with mu
	// held and loaded without.
	word atomic.Uint64

	mu    sync.Mutex // guards what follows; never held across I/O
	state zone.State
	gated bool // old data stands where the next write goes: writes wait
	// stuck: the old data could not be made to go away, and the next write tries
	// again; owed: that was so, and it has not gone away since.
	stuck, owed bool
	debris      uint64 // up to here failed writes may have left something, 0 for nothing: zoned_scrub.go
	watch       bool   // the committer waits for writes in flight
	// next is where the next admitted write goes, done the highest end of a
	// write that has landed.
	next, done uint64
	turn       uint64 // how many writes have been admitted
	flying     writesInFlight
	wait       disk.List // the requests that wait for the zone, in the order of their arrival

	older, newer int32 // list of implicitly open zones, guarded by res.mu
}

// openZoned opens a zoned image as a disk.
func openZoned(path string, o disk.Options) (*zoned, error) { return openZonedOver(path, o, nil) }

// openZonedOver is openZoned with something put over the image's file: see image.Open.
func openZonedOver(path string, o disk.Options, over func(image.Store) image.Store) (*zoned, error) {
	img, err := image.Open(path, o, over)
	if err != nil {
		return nil, err
	}
	d := &zoned{
		img:   img,
		zinfo: disk.Describe(&img.Geometry, o.ReadOnly),
		shift: bits.TrailingZeros64(img.ZoneSectors),
		conv:  uint64(img.ConventionalZones) * img.ZoneSectors,
		zones: make([]seqZone, img.Zones()),
	}
	d.rules = disk.NewRules(d.zinfo)
	d.res.Resources = zone.Resources{MaxOpen: img.MaxOpen, MaxActive: img.MaxActive}
	d.res.mu.Lock()
	for i := range d.zones {
		z, w := &d.zones[i], img.Found[i]
		z.state, z.next, z.done = w.State(), w.Written(), w.Written()
		z.word.Store(uint64(w))
		_ = d.res.Move(zone.Empty, z.state) // within the limits: image.Open has looked
		if z.state == zone.ImpOpen {        // their age is not in the image: by number
			d.enlistLocked(i)
		}
	}
	d.res.mu.Unlock()
	img.Found = nil
	if img.Unit != 0 {
		d.edges = &disk.Edged{Unit: img.Unit, File: int(img.File.Fd()), Ragged: img.FileBytes}
	}
	d.faults.Init(d.zinfo)
	_, _ = d.faults.Add(img.Faults...) // they are this disk's: image.Open has looked
	if !o.ReadOnly {
		d.com = newCommitter(d)
	}
	return d, nil
}

// Info implements Disk.
func (d *zoned) Info() disk.Info { return d.zinfo }

// ReportZone implements Disk.
func (d *zoned) ReportZone(i int) zone.Descriptor { return d.img.Zone(i, d.Entry(i)) }

// Faults implements Disk.
func (d *zoned) Faults() *disk.Faults { return &d.faults }

// Entry, conventional, length and capacity implement zoneTable.
func (d *zoned) Entry(i int) zone.Entry  { return zone.Entry(d.zones[i].word.Load()) }
func (d *zoned) Conventional(i int) bool { return d.img.Conventional(i) }
func (d *zoned) Length(i int) uint64     { return d.img.Length(i) }
func (d *zoned) Capacity(i int) uint64   { return d.img.Capacity(i) }

// Close implements Disk.
func (d *zoned) Close() error {
	if d.com == nil {
		return d.img.Close()
	}
	d.com.stop() // from here on its state and the zones' are ours
	d.leaveClaims()
	d.givingUp.Wait()
	var again []uint32
	for i := range d.zones {
		switch z := &d.zones[i]; {
		case z.debris != 0:
			d.clearDebris(i)
		case z.gated:
			again = append(again, uint32(i))
		}
	}
	if len(again) > 0 {
		d.com.commitResets(again)
	}
	err := d.com.commitAll()
	if err == nil && d.broken.Load() {
		err = errTable
	}
	for i := 0; i < len(d.zones) && err == nil; i++ {
		// Old data that is still there would show behind writes that are in
		// flight when the next daemon is killed; recovery clears it.
		if d.zones[i].gated {
			err = fmt.Errorf("%w: old data in zone %d could not be cleared", disk.ErrIO, i)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("image %s: it stays marked as in use: %w", d.img.Path, err), d.img.Release())
	}
	return d.img.Close()
}

// errTable is what a write gets when its zone's entry could not be stored.
var errTable = fmt.Errorf("%w: the zone table cannot be written", disk.ErrIO)

// Submit implements Disk.
func (d *zoned) Submit(q *disk.Request) {
	r := zonedOf(q)
	err := d.img.Size.Failed()
	if err == nil && r.Op != disk.OpRead && r.Op != disk.OpReport {
		err = d.img.Size.Before(q)
	}
	if err != nil {
		d.fail(r, err)
		return
	}
	switch r.Op {
	case disk.OpRead:
		d.read(r)
	case disk.OpWrite, disk.OpAppend:
		d.write(r)
	case disk.OpFlush:
		switch {
		case d.faults.Strike(r.Request, 0, 0):
			d.fail(r, r.Fault.Err) // of this flush alone: no sync has failed
		case d.com == nil:
			r.Finish(nil)
		default:
			d.com.flush(r.Request, nil)
		}
	case disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset:
		d.manage(r)
	case disk.OpResetAll:
		if d.img.ReadOnly {
			d.fail(r, disk.ErrReadOnly)
			return
		}
		d.resetFrom(r, d.img.ConventionalZones)
	case disk.OpSecureErase:
		d.erase(r)
	case disk.OpReport:
		r.Finish(nil) // ReportZone is always right
	case disk.OpSetState:
		d.setState(r)
	case disk.OpCommit:
		d.com.flush(r.Request, nil)
	default:
		d.fail(r, disk.ErrUnsupported)
	}
}

// Continue implements Disk.
func (d *zoned) Continue(q *disk.Request) {
	r := zonedOf(q)
	switch r.step {
	case zonedMoved:
		d.end(r, r.IO.Err)
	case zonedWrote:
		d.wrote(r)
	case zonedScrubbed:
		d.scrubbed(r)
	case zonedAdmitted:
		d.issue(r)
	case zonedChanged:
		d.done(r, r.Err)
	case zonedReset:
		d.resetFrom(r, int(r.zone)+1)
	case zonedErase:
		d.eraseFrom(r, int(r.zone)+1)
	case zonedSpan:
		r.step = r.after
		r.Move(d.edges.Reach(&r.IO, d.img.Reach))
	}
}

// fail ends r, on its lane, with a sentinel.
func (d *zoned) fail(r *zonedRequest, err error) { r.Finish(d.errorOf(r, err)) }

// end ends r, on its lane, with the outcome of I/O.
func (d *zoned) end(r *zonedRequest, err error) {
	if d.edges != nil {
		d.edges.End(r.Request)
	}
	switch {
	case err != nil:
		if err == io.ErrUnexpectedEOF {
			if short := d.img.Size.Look(); short != nil {
				err = short
			}
		}
		err = d.errorOf(r, fmt.Errorf("%w: %w", disk.ErrIO, err))
		if r.Op == disk.OpWrite && r.IO.Dsync { // it may have been told that data is lost: see image.sync
			d.com.flush(r.Request, err)
			return
		}
	case r.Fault != nil && r.Fault.Err != nil:
		err = d.errorOf(r, r.Fault.Err)
	case r.ThenSync:
		d.com.flush(r.Request, nil)
		return
	}
	r.Finish(err)
}

func (d *zoned) errorOf(r *zonedRequest, err error) error { return d.rules.ErrorOf(r.Request, err) }
