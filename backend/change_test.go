package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// changing is the note of a request that was about to carry op out on a zone when its
// daemon died.
func changing(op disk.Op, zone int) *disk.Note {
	m := new(disk.Note)
	m.Changing(op, zone)
	return m
}

// changingOneOf is the note of one that was about to reset a zone of its range number seg.
func changingOneOf(seg uint32, zone int) *disk.Note {
	m := new(disk.Note)
	m.ChangingOneOf(seg, zone)
	return m
}

// A daemon dies when it has changed a zone and has not noted that. Other requests change
// the zone in the next one before the request comes: it is not carried out again.
func TestChangeIsNotDoneTwice(t *testing.T) {
	data := pattern('a', 4096)
	for _, tc := range []struct {
		op     disk.Op
		change func(c *client)
		state  zone.State
		sector uint64
	}{
		{disk.OpReset, func(c *client) { c.want(c.write(256, data), nil) }, zone.ImpOpen, 8},
		{disk.OpFinish, func(c *client) { c.want(c.zoneOp(disk.OpReset, 256), nil); c.want(c.write(256, data), nil) }, zone.ImpOpen, 8},
		{disk.OpOpen, func(c *client) { c.want(c.zoneOp(disk.OpClose, 256), nil) }, zone.Closed, 8},
		{disk.OpClose, func(c *client) { c.want(c.write(256+8, data), nil) }, zone.ImpOpen, 16},
	} {
		path := newFastImage(t, small)
		d := openDisk(t, path)
		c := newClient(t, d)
		c.want(c.write(256, data), nil)
		c.want(c.write(384, data), nil)
		c.want(c.zoneOp(tc.op, 256), nil)
		done, undone := changing(tc.op, 2), changing(tc.op, 3)
		disk.Claim(d, disk.Run(d), []*disk.Note{done, undone})
		tc.change(c)
		c.want(c.resume(request(tc.op, 256, nil), done), nil)
		c.wantZone(2, tc.state, tc.sector)
		c.want(c.resume(request(tc.op, 384, nil), undone), nil)
		if s := d.ReportZone(3).State; s != leaves[tc.op] {
			t.Errorf("%v was not carried out: zone 3 is %v", tc.op, s)
		}
		wantMark(t, undone, disk.NotedDone)
		closeDisk(t, d, path)
	}
}

// The same of one of the zones that a request goes over.
func TestChangeOfOneZoneIsNotDoneTwice(t *testing.T) {
	for name, again := range map[string]func() *disk.Request{
		"reset of all": func() *disk.Request { return request(disk.OpResetAll, 0, nil) },
		"erase": func() *disk.Request {
			return eraseOf(disk.Range{Sector: 256, Sectors: 128}, disk.Range{Sector: 384, Sectors: 128})
		},
	} {
		path := newFastImage(t, small)
		d := openDisk(t, path)
		c := newClient(t, d)
		data := pattern('a', 4096)
		c.want(c.write(384, data), nil)
		seg := map[string]uint32{"erase": 1}[name]
		done := changingOneOf(0, 2)
		disk.Claim(d, disk.Run(d), []*disk.Note{done})
		c.want(c.write(256, data), nil)
		c.want(c.resume(again(), done), nil)
		c.wantZone(2, zone.ImpOpen, 8)
		c.wantZone(3, zone.Empty, 0)

		c.want(c.write(384, data), nil)
		undone := changingOneOf(seg, 3)
		disk.Claim(d, disk.Run(d), []*disk.Note{undone})
		c.want(c.resume(again(), undone), nil)
		c.wantZone(2, zone.ImpOpen, 8)
		c.wantZone(3, zone.Empty, 0)

		first := changingOneOf(0, 2)
		disk.Claim(d, disk.Run(d), []*disk.Note{first})
		c.want(c.resume(again(), first), nil)
		c.wantZone(2, zone.Empty, 0)
		closeDisk(t, d, path)
	}
}

// Such a note that its request cannot have, or of another user, costs the request an error
// or is forgotten, and no zone is changed by it.
func TestChangesThatCannotBe(t *testing.T) {
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c := newClient(t, d)
	c.want(c.write(384, pattern('a', 4096)), nil)
	for _, m := range []*disk.Note{changing(disk.OpReset, 1<<39), changing(disk.OpReset, 0), changing(disk.OpRead, 2), changing(disk.OpResetAll, 2), changing(200, 2)} {
		disk.Claim(d, disk.Run(d), []*disk.Note{m})
		wantMark(t, m, disk.NothingNoted)
	}
	for _, m := range []*disk.Note{changing(disk.OpReset, 2), changingOneOf(0, 2), changingOneOf(0, 1<<40-1), changingOneOf(0, 0), changingOneOf(0, 1)} {
		disk.Claim(d, disk.Run(d), []*disk.Note{m})
		c.want(c.resume(request(disk.OpReset, 384, nil), m), disk.ErrIO)
	}
	for _, m := range []*disk.Note{changing(disk.OpReset, 2), changingOneOf(0, 2)} {
		disk.Claim(d, disk.Run(d)+1, []*disk.Note{m})
		wantMark(t, m, disk.NotedFailed)
	}
	c.wantZone(3, zone.ImpOpen, 8)
	closeDisk(t, d, path)

	plain := newPlain(t, 1<<20)
	p := openDisk(t, plain)
	m := changing(disk.OpReset, 0)
	disk.Claim(p, 0, []*disk.Note{m})
	wantMark(t, m, disk.NothingNoted)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// A drive keeps the zones that a request was about to change for that: what else comes
// waits, and goes behind it.
func TestDriveChangeIsNotDoneTwice(t *testing.T) {
	emptying := new(disk.Note)
	emptying.Emptying(256)
	for _, tc := range []struct {
		m  *disk.Note
		op disk.Op
	}{
		{changing(disk.OpReset, 2), disk.OpReset}, {changing(disk.OpResetAll, 0), disk.OpResetAll}, {emptying, disk.OpClose},
	} {
		d := newFakeDrive(t, small, nil, nil) // the zone is empty: it was carried out
		c := newClient(t, d)
		sector := uint64(256)
		if tc.op == disk.OpResetAll {
			sector = 0
		}
		disk.Claim(d, disk.Run(d), []*disk.Note{tc.m})
		other := request(disk.OpAppend, 256, pattern('a', 4096))
		c.submit(other)
		c.quiet("the append has to wait for the request that was about to change the zone")
		again := request(tc.op, sector, nil)
		again.Note = tc.m
		c.lane.Resume(d, again)
		c.lane.Start()
		c.ended(again, other)
		c.want(again.Err, nil)
		c.want(other.Err, nil)
		c.wantState(d, 2, zone.ImpOpen, 8)
		wantMark(t, tc.m, disk.NotedDone)
		c.want(c.zoneOp(disk.OpResetAll, 0), nil) // no zone is kept any more
	}
}

// Zones that are kept for a request which does not come, or comes as another one, are free
// then; and only a request that had its zones to itself can have changed them.
func TestDriveChangesThatCannotBe(t *testing.T) {
	d := newFakeDrive(t, small, nil, nil)
	c := newClient(t, d)
	c.want(c.write(384, pattern('a', 4096)), nil)
	all := []*disk.Note{changing(disk.OpResetAll, 1<<39)}
	claim := func(m ...*disk.Note) { disk.Claim(d, disk.Run(d), m) }
	free := func() {
		t.Helper()
		c.want(c.zoneOp(disk.OpOpen, 256), nil)
		c.want(c.zoneOp(disk.OpClose, 256), nil)
		c.want(c.zoneOp(disk.OpOpen, 15*128), nil)
		c.want(c.zoneOp(disk.OpClose, 15*128), nil)
		c.wantState(d, 3, zone.ImpOpen, 8)
	}
	for _, end := range []func(disk.Disk, *disk.Note){disk.Release, disk.Unclaim} {
		for _, m := range []*disk.Note{changing(disk.OpResetAll, 0), changing(disk.OpReset, 3)} {
			claim(m)
			end(d, m)
			end(d, m)
			free()
		}
	}
	claim(all...)
	c.want(c.resume(request(disk.OpReset, 384, nil), all[0]), disk.ErrIO)
	free()
	one := changing(disk.OpReset, 2)
	claim(one)
	c.want(c.resume(request(disk.OpReset, 384, nil), one), disk.ErrIO)
	free()

	first, same, address, reset := changing(disk.OpReset, 2), changing(disk.OpFinish, 2), inFlightAt(256, 8), changing(disk.OpResetAll, 0)
	claim(first, same, address, reset)
	for _, m := range []*disk.Note{same, address, reset} {
		wantMark(t, m, disk.NotedFailed)
	}
	claim(changing(disk.OpReset, 1<<39), changing(disk.OpReset, 0))
	c.want(c.resume(request(disk.OpAppend, 256, pattern('b', 512)), inFlightAt(256, 8)), disk.ErrIO)
	first.At(256, 8) // after it was claimed
	c.want(c.resume(request(disk.OpAppend, 256, pattern('b', 4096)), first), disk.ErrIO)
	free()
	for _, m := range []*disk.Note{changing(disk.OpRead, 2), changing(200, 2), changingOneOf(0, 2)} {
		claim(m)
		wantMark(t, m, disk.NotedFailed)
	}
}
