package backend

import (
	"os"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// wantLive looks at what a daemon that is killed now leaves of zone i.
func wantLive(t *testing.T, d disk.Disk, i int, state zone.State, written uint64) {
	t.Helper()
	img := d.(*zoned).img
	live, err := readLive(img.f, &img.layout)
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
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c, e := heldClient(t, d, isWrite)
	c.want(c.writeNow(e, 256, pattern('a', 4096)), nil)
	c.want(c.zoneOp(disk.OpClose, 256), nil)
	wantLive(t, d, 2, zone.Closed, 8)
	rs := c.appends(e, 256, 2)
	wantLive(t, d, 2, zone.ImpOpen, 8)
	c.wantZone(2, zone.ImpOpen, 8)
	c.want(c.zoneOp(disk.OpClose, 256), nil)
	wantLive(t, d, 2, zone.Closed, 8)
	c.settleHeld(e)
	c.ended(rs...)
	c.wantZone(2, zone.Closed, 24)
	e.hold = nil
	closeDisk(t, d, path)
}

// A zone whose first writes are in flight comes back empty and is opened by them
// again; so nobody may have been told before that it is closed.
func TestCloseWaitsForTheFirstWrite(t *testing.T) {
	for _, how := range []disk.Op{disk.OpWrite, disk.OpOpen} {
		t.Run("after "+how.String(), func(t *testing.T) {
			path := newFastImage(t, small)
			d := openDisk(t, path)
			c, e := heldClient(t, d, isWrite)
			state := zone.Empty // nothing has landed
			if how == disk.OpOpen {
				c.want(c.zoneOp(disk.OpOpen, 256), nil)
				state = zone.ExpOpen
			}
			rs := c.appends(e, 256, 2)
			closing, next := request(disk.OpClose, 256, nil), request(disk.OpAppend, 256, pattern('z', 512))
			closing.Note, next.Note = new(disk.Note), new(disk.Note)
			c.submit(closing, next)
			c.quiet("the close has to wait, and what comes behind it")
			wantLive(t, d, 2, state, 0)
			wantMark(t, closing.Note, disk.NothingNoted)
			e.release(1, fault{}) // the later one: the zone has data now
			c.ended(rs[1])
			wantMark(t, closing.Note, disk.NotedDone)
			wantMark(t, next.Note, disk.NotedAddress)
			wantLive(t, d, 2, zone.ImpOpen, 16)
			c.ended(closing)
			c.want(closing.Err, nil)
			c.settleHeld(e)
			c.ended(rs[0], next)
			c.wantZone(2, zone.ImpOpen, 17)
			e.hold = nil
			closeDisk(t, d, path)
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
	path := newImage(t, small)
	d := openDisk(t, path)
	c := newClient(t, d)
	c.want(c.zoneOp(disk.OpOpen, 3*128), nil)
	changed, unchanged := emptying(256), emptying(3*128)
	disk.Claim(d, disk.Run(d), []*disk.Note{changed, unchanged})
	c.want(c.resume(request(disk.OpClose, 256, nil), changed), nil)
	c.want(c.resume(request(disk.OpClose, 3*128, nil), unchanged), nil)
	c.wantZone(2, zone.Empty, 0)
	c.wantZone(3, zone.Empty, 0)

	beyond, conventional, others := emptying(1<<40), emptying(0), emptying(256)
	disk.Claim(d, disk.Run(d), []*disk.Note{beyond, conventional})
	disk.Claim(d, disk.Run(d)+1, []*disk.Note{others})
	c.want(c.resume(request(disk.OpClose, 256, nil), beyond), zone.ErrInvalid)
	c.want(c.resume(request(disk.OpClose, 0, nil), conventional), zone.ErrInvalid)
	c.want(c.resume(request(disk.OpClose, 256, nil), others), disk.ErrIO)
	closeDisk(t, d, path)

	drive := newFakeDrive(t, small, nil, nil)
	c = newClient(t, drive)
	m := emptying(256)
	disk.Claim(drive, disk.Run(drive), []*disk.Note{m})
	c.want(c.resume(request(disk.OpClose, 256, nil), m), nil)
	c.want(c.zoneOp(disk.OpOpen, 256), nil)
	r := request(disk.OpClose, 256, nil)
	r.Note = new(disk.Note)
	c.want(c.do(r), nil)
	wantMark(t, r.Note, disk.NotedDone)

	plain := newPlain(t, 1<<20)
	p := openDisk(t, plain)
	m = emptying(0)
	disk.Claim(p, 0, []*disk.Note{m})
	wantMark(t, m, disk.NothingNoted)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// Claims are made and given up by a goroutine that no worker is: a live table that faults
// then costs nobody the daemon either.
func TestLiveTableFaultsUnderClaims(t *testing.T) {
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c := newClient(t, d)
	for zn := range uint64(small.MaxOpen) {
		c.want(c.write((2+zn)*128, pattern('a', 512)), nil)
	}
	if err := os.Truncate(path, liveOff); err != nil {
		t.Fatal(err)
	}
	m := inFlightAt(8*128, 8) // takes the place of an open zone
	disk.Claim(d, disk.Run(d), []*disk.Note{m})
	disk.Release(d, m)
	c.want(c.write(9*128, pattern('a', 512)), disk.ErrIO)
	if err := d.Close(); err == nil {
		t.Error("closed cleanly")
	}
}
