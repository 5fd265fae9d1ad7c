package backend

import (
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// manage carries out a zone management request on one zone.
func (d *zoned) manage(r *zonedRequest) {
	if r.Sector >= d.zinfo.CapacitySectors || r.Sector < d.conv || r.Sector&(d.img.ZoneSectors-1) != 0 {
		d.fail(r, zone.ErrInvalid)
		return
	}
	i := int(r.Sector >> d.shift)
	switch {
	case d.img.ReadOnly:
		if err := disk.OnReadOnly(r.Op, d.Entry(i)); err != nil {
			d.fail(r, err)
			return
		}
		r.Finish(nil)
		return
	case d.broken.Load():
		d.fail(r, errTable)
		return
	}
	r.zone = int32(i)
	z := &d.zones[i]
	z.mu.Lock()
	if z.wait.Head != nil || z.hinderLocked(r) {
		d.queueLocked(z, r)
		z.mu.Unlock()
		return
	}
	err := d.changeLocked(z, i, r)
	z.mu.Unlock()
	if err != nil {
		err = d.errorOf(r, err)
	}
	d.done(r, err)
}

// resetFrom carries out a reset-all from zone i on. Where a zone has writes in
// flight it waits there, and goes on when they have landed.
func (d *zoned) resetFrom(r *zonedRequest, i int) {
	for ; i < len(d.zones); i++ {
		z := &d.zones[i]
		switch zone.Entry(z.word.Load()).State() {
		case zone.ReadOnly, zone.Offline:
			continue
		}
		// The entry may say empty while the zone's first writes are in flight.
		z.mu.Lock()
		if z.state == zone.Empty && z.wait.Head == nil {
			r.Note.Past(0, i)
			z.mu.Unlock()
			continue
		}
		if z.wait.Head != nil || !z.flying.emptyLocked() {
			r.zone = int32(i)
			d.queueLocked(z, r)
			z.mu.Unlock()
			return
		}
		err := d.resetOneOfLocked(z, i, r, 0)
		z.mu.Unlock()
		if err != nil && err != zone.ErrInvalid { // a zone that just turned read-only or offline is passed over
			d.fail(r, err)
			return
		}
	}
	d.done(r, nil)
}
