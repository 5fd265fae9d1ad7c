package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/zone"
)

// The notes stand in memory that a front-end may write to: what it does there between
// Claim and Resume, or afterwards, costs its own requests, and neither holds a zone nor
// moves a write.
func TestMarksThatChange(t *testing.T) {
	for name, open := range map[string]func() (disk.Disk, func()){
		"image": func() (disk.Disk, func()) {
			path := newImage(t, disktest.Small)
			d := openDisk(t, path)
			return d, func() { closeDisk(t, d, path) }
		},
		"drive": func() (disk.Disk, func()) {
			return openFakeDrive(t, disktest.Small, newFakeDrive(t, disktest.Small, nil, nil).dev, nil, false), func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, done := open()
			c := disktest.NewClient(t, d)
			ok := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			const start = 3 * 128
			for i, change := range []func(m *disk.Note){
				func(m *disk.Note) { m.Done(start) },
				func(m *disk.Note) { m.Failed() },
				func(m *disk.Note) { m.Clear() },
				func(m *disk.Note) { m.At(start+128, 8) },
				func(m *disk.Note) { m.At(start+92, 8) }, // past the end of the zone
				func(m *disk.Note) { m.At(start+4, 8) },
			} {
				m, other := disktest.NoteInFlight(start, 8), disktest.NoteInFlight(start+8, 8)
				disk.Claim(d, disk.Run(d), []*disk.Note{m, other})
				change(m)
				change(other)
				r := disktest.NewRequest(disk.OpAppend, start, disktest.Pattern(1, 4096))
				r.Note = m
				c.Lane.Resume(d, r)
				c.Lane.Start()
				disk.Release(d, other)
				disk.Release(d, m)
				if got := c.Wait(); got != r || r.Err == nil && (r.AppendSector < start || r.AppendSector+8 > start+96) {
					t.Errorf("%d: the append is at sector %d, %v", i, r.AppendSector, r.Err)
				}
				// The zone is not kept for anybody.
				ok(c.ZoneOp(disk.OpReset, start))
				if z := d.ReportZone(3); z.State != zone.Empty {
					t.Errorf("%d: %+v", i, z)
				}
				if next := d.ReportZone(4); next.WP != start+128 {
					t.Errorf("%d: %+v", i, next)
				}
			}
			// A note that says that its request has an address, which it has not.
			r := disktest.NewRequest(disk.OpAppend, start, disktest.Pattern(1, 4096))
			ok(c.Do(r))
			r = disktest.NewRequest(disk.OpAppend, start, disktest.Pattern(1, 4096))
			r.Note, driveOf(r).from, driveOf(r).end = disktest.NoteInFlight(start, 8), 90, 200
			ok(c.Do(r))
			if r.AppendSector != start+8 {
				t.Errorf("the append is at sector %d", r.AppendSector)
			}
			done()
		})
	}
}
