package drive

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A drive keeps the zones that a request was about to change for that: what else comes
// waits, and goes behind it.
func TestChangeIsNotDoneTwice(t *testing.T) {
	emptying := new(disk.Note)
	emptying.Emptying(256)
	for _, tc := range []struct {
		m  *disk.Note
		op disk.Op
	}{
		{disktest.NoteChanging(disk.OpReset, 2), disk.OpReset}, {disktest.NoteChanging(disk.OpResetAll, 0), disk.OpResetAll}, {emptying, disk.OpClose},
	} {
		d := newFakeDrive(t, disktest.Small, nil, nil) // the zone is empty: it was carried out
		c := disktest.NewClient(t, d)
		sector := uint64(256)
		if tc.op == disk.OpResetAll {
			sector = 0
		}
		disk.Claim(d, disk.Run(d), []*disk.Note{tc.m})
		other := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('a', 4096))
		c.Submit(other)
		c.WantNothingDone("the append has to wait for the request that was about to change the zone")
		again := disktest.NewRequest(tc.op, sector, nil)
		again.Note = tc.m
		c.Lane.Resume(d, again)
		c.Lane.Start()
		c.WantDone(again, other)
		c.WantError(again.Err, nil)
		c.WantError(other.Err, nil)
		d.wantState(c.T, 2, zone.ImpOpen, 8)
		disktest.WantNote(t, tc.m, disk.NotedDone)
		c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil) // no zone is kept any more
	}
}

// Zones that are kept for a request which does not come, or comes as another one, are free
// then; and only a request that had its zones to itself can have changed them.
func TestChangesThatCannotBe(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(384, disktest.Pattern('a', 4096)), nil)
	all := []*disk.Note{disktest.NoteChanging(disk.OpResetAll, 1<<39)}
	claim := func(m ...*disk.Note) { disk.Claim(d, disk.Run(d), m) }
	free := func() {
		t.Helper()
		c.WantError(c.ZoneOp(disk.OpOpen, 256), nil)
		c.WantError(c.ZoneOp(disk.OpClose, 256), nil)
		c.WantError(c.ZoneOp(disk.OpOpen, 15*128), nil)
		c.WantError(c.ZoneOp(disk.OpClose, 15*128), nil)
		d.wantState(c.T, 3, zone.ImpOpen, 8)
	}
	for _, end := range []func(disk.Disk, *disk.Note){disk.Release, disk.Unclaim} {
		for _, m := range []*disk.Note{disktest.NoteChanging(disk.OpResetAll, 0), disktest.NoteChanging(disk.OpReset, 3)} {
			claim(m)
			end(d, m)
			end(d, m)
			free()
		}
	}
	claim(all...)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpReset, 384, nil), all[0]), disk.ErrIO)
	free()
	one := disktest.NoteChanging(disk.OpReset, 2)
	claim(one)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpReset, 384, nil), one), disk.ErrIO)
	free()

	first, same, address, reset := disktest.NoteChanging(disk.OpReset, 2), disktest.NoteChanging(disk.OpFinish, 2), disktest.NoteInFlight(256, 8), disktest.NoteChanging(disk.OpResetAll, 0)
	claim(first, same, address, reset)
	for _, m := range []*disk.Note{same, address, reset} {
		disktest.WantNote(t, m, disk.NotedFailed)
	}
	claim(disktest.NoteChanging(disk.OpReset, 1<<39), disktest.NoteChanging(disk.OpReset, 0))
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('b', 512)), disktest.NoteInFlight(256, 8)), disk.ErrIO)
	first.At(256, 8) // after it was claimed
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('b', 4096)), first), disk.ErrIO)
	free()
	for _, m := range []*disk.Note{disktest.NoteChanging(disk.OpRead, 2), disktest.NoteChanging(200, 2), disktest.NoteChangingOneOf(0, 2)} {
		claim(m)
		disktest.WantNote(t, m, disk.NotedFailed)
	}
}

// A close that made a zone empty cannot be done again: it is done if the zone is empty, and
// as new if it is not.
func TestCloseThatEmptiesIsNotDoneTwice(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	m := disktest.NoteEmptying(256)
	disk.Claim(d, disk.Run(d), []*disk.Note{m})
	c.WantError(c.Resume(disktest.NewRequest(disk.OpClose, 256, nil), m), nil)
	c.WantError(c.ZoneOp(disk.OpOpen, 256), nil)
	r := disktest.NewRequest(disk.OpClose, 256, nil)
	r.Note = new(disk.Note)
	c.WantError(c.Do(r), nil)
	disktest.WantNote(t, r.Note, disk.NotedDone)
}
