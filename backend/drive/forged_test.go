package drive

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
)

func TestForgedMarks(t *testing.T) {
	disktest.CheckForgedNotes(t, newFakeDrive(t, disktest.Small, nil, nil))
}

func TestManyClaimsInOneZone(t *testing.T) {
	d := newFakeDrive(t, disktest.ManyClaims, nil, nil)
	disktest.CheckManyClaims(t, d, &d.claims.steps)
}

func TestMarksThatChange(t *testing.T) {
	d := openFakeDrive(t, disktest.Small, newFakeDrive(t, disktest.Small, nil, nil).dev, nil, false)
	disktest.CheckNotesThatChange(t, d, func(r *disk.Request) { requestOf(r).from, requestOf(r).end = 90, 200 })
}

// Claims of a drive's zone that cannot have been made, each beside one that can.
func TestForgedClaims(t *testing.T) {
	g := disktest.Small
	g.BlockSize = 4096
	d := newFakeDrive(t, g, nil, nil)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(3*128, disktest.Pattern('v', 8192)), nil)
	good := []*disk.Note{disktest.NoteInFlight(256+8, 16), disktest.NoteInFlight(3*128+16, 8), disktest.NoteInFlight(4*128, 8)}
	disk.Claim(d, disk.Run(d), good)
	for what, m := range map[string]*disk.Note{
		"the same": disktest.NoteInFlight(256+8, 16), "the end of it": disktest.NoteInFlight(256+16, 8), "over it": disktest.NoteInFlight(256, 32), "into it": disktest.NoteInFlight(256, 16), "out of it": disktest.NoteInFlight(256+16, 16),
		"within a block": disktest.NoteInFlight(5*128+4, 8), "a part of a block": disktest.NoteInFlight(5*128, 4), "less than a sector over": disktest.NoteInFlight(5*128, 12),
	} {
		disk.Claim(d, disk.Run(d), []*disk.Note{m})
		if m.Load().What != disk.NotedFailed {
			t.Errorf("%s: claimed", what)
		}
	}
	beside := []*disk.Note{disktest.NoteInFlight(256, 8), disktest.NoteInFlight(256+24, 8)}
	disk.Claim(d, disk.Run(d), beside)
	// Two that the write pointer has passed cannot be at one place either.
	passed := []*disk.Note{disktest.NoteInFlight(3*128, 8), disktest.NoteInFlight(3*128, 16), disktest.NoteInFlight(3*128+8, 8)}
	disk.Claim(d, disk.Run(d), passed)
	disktest.WantNote(t, passed[0], disk.NotedDone)
	disktest.WantNote(t, passed[1], disk.NotedFailed)
	disktest.WantNote(t, passed[2], disk.NotedDone)
	for _, m := range append(good, beside...) {
		disktest.WantNote(t, m, disk.NotedAddress)
		disk.Release(d, m)
	}
	c.WantError(c.Write(256, disktest.Pattern('n', 4096)), nil)
}
