package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/zone"
)

// The marks stand in memory that a front-end may write to: what it does there between
// Claim and Resume, or afterwards, costs its own requests, and neither holds a zone nor
// moves a write.
func TestMarksThatChange(t *testing.T) {
	for name, open := range map[string]func() (Disk, func()){
		"image": func() (Disk, func()) {
			path := newImage(t, small)
			d := openDisk(t, path)
			return d, func() { closeDisk(t, d, path) }
		},
		"drive": func() (Disk, func()) {
			return openFakeDrive(t, small, newFakeDrive(t, small, nil, nil).dev, nil, false), func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, done := open()
			c := newClient(t, d)
			ok := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			const start = 3 * 128
			for i, change := range []func(m *Mark){
				func(m *Mark) { m.done(start) },
				func(m *Mark) { m.failed() },
				func(m *Mark) { m.Clear() },
				func(m *Mark) { m.at(start+128, 8) },
				func(m *Mark) { m.at(start+92, 8) }, // past the end of the zone
				func(m *Mark) { m.at(start+4, 8) },
			} {
				m, other := inFlightAt(start, 8), inFlightAt(start+8, 8)
				Claim(d, Run(d), []*Mark{m, other})
				change(m)
				change(other)
				r := request(OpAppend, start, pattern(1, 4096))
				r.Mark = m
				c.lane.Resume(d, r)
				c.lane.Start()
				Release(d, other)
				Release(d, m)
				if got := c.wait(); got != r || r.Err == nil && (r.AppendSector < start || r.AppendSector+8 > start+96) {
					t.Errorf("%d: the append is at sector %d, %v", i, r.AppendSector, r.Err)
				}
				// The zone is not kept for anybody.
				ok(c.zoneOp(OpReset, start))
				if z := d.ReportZone(3); z.State != zone.Empty {
					t.Errorf("%d: %+v", i, z)
				}
				if next := d.ReportZone(4); next.WP != start+128 {
					t.Errorf("%d: %+v", i, next)
				}
			}
			// A mark that says that its request has an address, which it has not.
			r := request(OpAppend, start, pattern(1, 4096))
			ok(c.do(r))
			r = request(OpAppend, start, pattern(1, 4096))
			r.Mark, driveOf(r).from, driveOf(r).end = inFlightAt(start, 8), 90, 200
			ok(c.do(r))
			if r.AppendSector != start+8 {
				t.Errorf("the append is at sector %d", r.AppendSector)
			}
			done()
		})
	}
}
