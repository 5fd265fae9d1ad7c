package backend

import (
	"os"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// wantLive looks at what a daemon that is killed now leaves of zone i.
func wantLive(t *testing.T, d disk.Disk, i int, state zone.State, written uint64) {
	t.Helper()
	img := d.(*zoned).img
	live, err := format.ReadLive(img.File, &img.Layout)
	if err != nil {
		t.Fatal(err)
	}
	if w := live[i]; w.State() != state || w.Written() != written {
		t.Errorf("the live table has zone %d %v with %d sectors written, want %v with %d", i, w.State(), w.Written(), state, written)
	}
}

// What is known of a write in flight is its address. That it has opened a closed
// zone, and whether somebody has closed that again since, the table has to say.
func TestTableKnowsWhoIsOpen(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	c.WantError(c.WriteUnheld(e, 256, disktest.Pattern('a', 4096)), nil)
	c.WantError(c.ZoneOp(disk.OpClose, 256), nil)
	wantLive(t, d, 2, zone.Closed, 8)
	rs := c.AppendEach(e, 256, 2)
	wantLive(t, d, 2, zone.ImpOpen, 8)
	c.WantZone(2, zone.ImpOpen, 8)
	c.WantError(c.ZoneOp(disk.OpClose, 256), nil)
	wantLive(t, d, 2, zone.Closed, 8)
	c.ReleaseAll(e)
	c.WantDone(rs...)
	c.WantZone(2, zone.Closed, 24)
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}

// A zone whose first writes are in flight comes back empty and is opened by them
// again; so nobody may have been told before that it is closed.
func TestCloseWaitsForTheFirstWrite(t *testing.T) {
	for _, how := range []disk.Op{disk.OpWrite, disk.OpOpen} {
		t.Run("after "+how.String(), func(t *testing.T) {
			path := imagetest.NewFast(t, disktest.Small)
			d := openDisk(t, path)
			c, e := disktest.HeldClient(t, d, disktest.IsWritev)
			state := zone.Empty // nothing has landed
			if how == disk.OpOpen {
				c.WantError(c.ZoneOp(disk.OpOpen, 256), nil)
				state = zone.ExpOpen
			}
			rs := c.AppendEach(e, 256, 2)
			closing, next := disktest.NewRequest(disk.OpClose, 256, nil), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('z', 512))
			closing.Note, next.Note = new(disk.Note), new(disk.Note)
			c.Submit(closing, next)
			c.WantNothingDone("the close has to wait, and what comes behind it")
			wantLive(t, d, 2, state, 0)
			disktest.WantNote(t, closing.Note, disk.NothingNoted)
			e.Release(1, disktest.OpFault{}) // the later one: the zone has data now
			c.WantDone(rs[1])
			disktest.WantNote(t, closing.Note, disk.NotedDone)
			disktest.WantNote(t, next.Note, disk.NotedAddress)
			wantLive(t, d, 2, zone.ImpOpen, 16)
			c.WantDone(closing)
			c.WantError(closing.Err, nil)
			c.ReleaseAll(e)
			c.WantDone(rs[0], next)
			c.WantZone(2, zone.ImpOpen, 17)
			e.Hold = nil
			imagetest.CloseDisk(t, d, path)
		})
	}
}

// A close that made a zone empty cannot be done again: it is done if the zone is
// empty, and as new if it is not.
func TestCloseThatEmptiesIsNotDoneTwice(t *testing.T) {
	emptying := func(sector uint64) *disk.Note {
		m := new(disk.Note)
		m.Emptying(sector)
		return m
	}
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.ZoneOp(disk.OpOpen, 3*128), nil)
	changed, unchanged := emptying(256), emptying(3*128)
	disk.Claim(d, disk.Run(d), []*disk.Note{changed, unchanged})
	c.WantError(c.Resume(disktest.NewRequest(disk.OpClose, 256, nil), changed), nil)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpClose, 3*128, nil), unchanged), nil)
	c.WantZone(2, zone.Empty, 0)
	c.WantZone(3, zone.Empty, 0)

	beyond, conventional, others := emptying(1<<40), emptying(0), emptying(256)
	disk.Claim(d, disk.Run(d), []*disk.Note{beyond, conventional})
	disk.Claim(d, disk.Run(d)+1, []*disk.Note{others})
	c.WantError(c.Resume(disktest.NewRequest(disk.OpClose, 256, nil), beyond), zone.ErrInvalid)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpClose, 0, nil), conventional), zone.ErrInvalid)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpClose, 256, nil), others), disk.ErrIO)
	imagetest.CloseDisk(t, d, path)

	plain := newPlain(t, 1<<20)
	p := openDisk(t, plain)
	m := emptying(0)
	disk.Claim(p, 0, []*disk.Note{m})
	disktest.WantNote(t, m, disk.NothingNoted)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// Claims are made and given up by a goroutine that no worker is: a live table that faults
// then costs nobody the daemon either.
func TestLiveTableFaultsUnderClaims(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	for zn := range uint64(disktest.Small.MaxOpen) {
		c.WantError(c.Write((2+zn)*128, disktest.Pattern('a', 512)), nil)
	}
	if err := os.Truncate(path, format.LiveOff); err != nil {
		t.Fatal(err)
	}
	m := disktest.NoteInFlight(8*128, 8) // takes the place of an open zone
	disk.Claim(d, disk.Run(d), []*disk.Note{m})
	disk.Release(d, m)
	c.WantError(c.Write(9*128, disktest.Pattern('a', 512)), disk.ErrIO)
	if err := d.Close(); err == nil {
		t.Error("closed cleanly")
	}
}
