package backend

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
)

// This file opens and closes a zoned disk over an image (zoned_disk.go), and says which
// function carries out which request (Submit) and which step of one (Continue).

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
	d.res.implicit = newOpenOrder(img.Zones())
	d.res.mu.Lock()
	for i := range d.zones {
		z, w := &d.zones[i], img.Found[i]
		z.state, z.next, z.done = w.State(), w.Written(), w.Written()
		z.word.Store(uint64(w))
		_ = d.res.Move(zone.Empty, z.state) // within the limits: image.Open has looked
		if z.state == zone.ImpOpen {        // their age is not in the image: by number
			d.res.implicit.addLocked(i)
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
		case z.gate.residue != 0:
			d.clearResidue(i)
		case z.gate.closed:
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
		if d.zones[i].gate.closed {
			err = fmt.Errorf("%w: old data in zone %d could not be cleared", disk.ErrIO, i)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("image %s: it stays marked as in use: %w", d.img.Path, err), d.img.Release())
	}
	return d.img.Close()
}

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
