package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A daemon dies when it has changed a zone and has not noted that. Other requests change
// the zone in the next one before the request comes: it is not carried out again.
func TestChangeIsNotDoneTwice(t *testing.T) {
	data := disktest.Pattern('a', 4096)
	for _, tc := range []struct {
		op         disk.Op
		change     func(c *disktest.Client)
		StateBlock zone.State
		sector     uint64
	}{
		{disk.OpReset, func(c *disktest.Client) { c.WantError(c.Write(256, data), nil) }, zone.ImpOpen, 8},
		{disk.OpFinish, func(c *disktest.Client) {
			c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
			c.WantError(c.Write(256, data), nil)
		}, zone.ImpOpen, 8},
		{disk.OpOpen, func(c *disktest.Client) { c.WantError(c.ZoneOp(disk.OpClose, 256), nil) }, zone.Closed, 8},
		{disk.OpClose, func(c *disktest.Client) { c.WantError(c.Write(256+8, data), nil) }, zone.ImpOpen, 16},
	} {
		path := imagetest.NewFast(t, disktest.Small)
		d := openDisk(t, path)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, data), nil)
		c.WantError(c.Write(384, data), nil)
		c.WantError(c.ZoneOp(tc.op, 256), nil)
		done, undone := disktest.NoteChanging(tc.op, 2), disktest.NoteChanging(tc.op, 3)
		disk.Claim(d, disk.Run(d), []*disk.Note{done, undone})
		tc.change(c)
		c.WantError(c.Resume(disktest.NewRequest(tc.op, 256, nil), done), nil)
		c.WantZone(2, tc.StateBlock, tc.sector)
		c.WantError(c.Resume(disktest.NewRequest(tc.op, 384, nil), undone), nil)
		if s := d.ReportZone(3).State; s != leaves[tc.op] {
			t.Errorf("%v was not carried out: zone 3 is %v", tc.op, s)
		}
		disktest.WantNote(t, undone, disk.NotedDone)
		imagetest.CloseDisk(t, d, path)
	}
}

// The same of one of the zones that a request goes over.
func TestChangeOfOneZoneIsNotDoneTwice(t *testing.T) {
	for name, again := range map[string]func() *disk.Request{
		"reset of all": func() *disk.Request { return disktest.NewRequest(disk.OpResetAll, 0, nil) },
		"erase": func() *disk.Request {
			return eraseOf(disk.Range{Sector: 256, Sectors: 128}, disk.Range{Sector: 384, Sectors: 128})
		},
	} {
		path := imagetest.NewFast(t, disktest.Small)
		d := openDisk(t, path)
		c := disktest.NewClient(t, d)
		data := disktest.Pattern('a', 4096)
		c.WantError(c.Write(384, data), nil)
		seg := map[string]uint32{"erase": 1}[name]
		done := disktest.NoteChangingOneOf(0, 2)
		disk.Claim(d, disk.Run(d), []*disk.Note{done})
		c.WantError(c.Write(256, data), nil)
		c.WantError(c.Resume(again(), done), nil)
		c.WantZone(2, zone.ImpOpen, 8)
		c.WantZone(3, zone.Empty, 0)

		c.WantError(c.Write(384, data), nil)
		undone := disktest.NoteChangingOneOf(seg, 3)
		disk.Claim(d, disk.Run(d), []*disk.Note{undone})
		c.WantError(c.Resume(again(), undone), nil)
		c.WantZone(2, zone.ImpOpen, 8)
		c.WantZone(3, zone.Empty, 0)

		first := disktest.NoteChangingOneOf(0, 2)
		disk.Claim(d, disk.Run(d), []*disk.Note{first})
		c.WantError(c.Resume(again(), first), nil)
		c.WantZone(2, zone.Empty, 0)
		imagetest.CloseDisk(t, d, path)
	}
}

// Such a note that its request cannot have, or of another user, costs the request an error
// or is forgotten, and no zone is changed by it.
func TestChangesThatCannotBe(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(384, disktest.Pattern('a', 4096)), nil)
	for _, m := range []*disk.Note{disktest.NoteChanging(disk.OpReset, 1<<39), disktest.NoteChanging(disk.OpReset, 0), disktest.NoteChanging(disk.OpRead, 2), disktest.NoteChanging(disk.OpResetAll, 2), disktest.NoteChanging(200, 2)} {
		disk.Claim(d, disk.Run(d), []*disk.Note{m})
		disktest.WantNote(t, m, disk.NothingNoted)
	}
	for _, m := range []*disk.Note{disktest.NoteChanging(disk.OpReset, 2), disktest.NoteChangingOneOf(0, 2), disktest.NoteChangingOneOf(0, 1<<40-1), disktest.NoteChangingOneOf(0, 0), disktest.NoteChangingOneOf(0, 1)} {
		disk.Claim(d, disk.Run(d), []*disk.Note{m})
		c.WantError(c.Resume(disktest.NewRequest(disk.OpReset, 384, nil), m), disk.ErrIO)
	}
	for _, m := range []*disk.Note{disktest.NoteChanging(disk.OpReset, 2), disktest.NoteChangingOneOf(0, 2)} {
		disk.Claim(d, disk.Run(d)+1, []*disk.Note{m})
		disktest.WantNote(t, m, disk.NotedFailed)
	}
	c.WantZone(3, zone.ImpOpen, 8)
	imagetest.CloseDisk(t, d, path)

	plain := newPlain(t, 1<<20)
	p := openDisk(t, plain)
	m := disktest.NoteChanging(disk.OpReset, 0)
	disk.Claim(p, 0, []*disk.Note{m})
	disktest.WantNote(t, m, disk.NothingNoted)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
