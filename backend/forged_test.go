package backend

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A note is in memory that a front-end can write to. A request is not answered as done
// because of one that no daemon can have stored for it.
func TestForgedMarks(t *testing.T) {
	erase := func(ranges ...disk.Range) *disk.Request {
		r := disktest.NewRequest(disk.OpSecureErase, 0, nil)
		r.Ranges = ranges
		return r
	}
	block := disktest.Pattern('f', 4096)
	cases := map[string]struct {
		r *disk.Request
		m *disk.Note
	}{
		"flush, done":                     {disktest.NewRequest(disk.OpFlush, 0, nil), disktest.NoteDone(0, 0)},
		"flush, done like management":     {disktest.NewRequest(disk.OpFlush, 0, nil), disktest.NoteManaged(disk.OpFlush, 0)},
		"flush, past":                     {disktest.NewRequest(disk.OpFlush, 0, nil), disktest.NotePast(0, 15)},
		"read, done":                      {disktest.NewRequest(disk.OpRead, 256, make([]byte, 4096)), disktest.NoteDone(256, 8)},
		"report, done":                    {&disk.Request{Op: disk.OpReport, Bytes: 1}, disktest.NoteDone(0, 0)},
		"conventional write, done":        {disktest.NewRequest(disk.OpWrite, 0, block), disktest.NoteDone(0, 8)},
		"conventional append, done":       {disktest.NewRequest(disk.OpAppend, 0, block), disktest.NoteDone(0, 8)},
		"write behind the disk, done":     {disktest.NewRequest(disk.OpWrite, 1<<40, block), disktest.NoteDone(1<<40, 8)},
		"write, done elsewhere":           {disktest.NewRequest(disk.OpWrite, 256, block), disktest.NoteDone(256+8, 8)},
		"write, longer than done":         {disktest.NewRequest(disk.OpWrite, 256, block), disktest.NoteDone(256, 4)},
		"write, shorter than done":        {disktest.NewRequest(disk.OpWrite, 256, block), disktest.NoteDone(256, 16)},
		"write of nothing, done":          {disktest.NewRequest(disk.OpWrite, 256, nil), disktest.NoteDone(256, 0)},
		"write over the capacity, done":   {disktest.NewRequest(disk.OpWrite, 256+92, block), disktest.NoteDone(256+92, 8)},
		"append, done in another zone":    {disktest.NewRequest(disk.OpAppend, 256, block), disktest.NoteDone(384, 8)},
		"append, done behind the zone":    {disktest.NewRequest(disk.OpAppend, 256, block), disktest.NoteDone(256+92, 8)},
		"append to no zone's start, done": {disktest.NewRequest(disk.OpAppend, 256+8, block), disktest.NoteDone(256+8, 8)},
		"append over the limit, done":     {disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('f', 64*512)), disktest.NoteDone(256, 64)},
		"write, managed":                  {disktest.NewRequest(disk.OpWrite, 256, block), disktest.NoteManaged(disk.OpOpen, 2)},
		"open, done":                      {disktest.NewRequest(disk.OpOpen, 256, nil), disktest.NoteDone(0, 0)},
		"open of another zone":            {disktest.NewRequest(disk.OpOpen, 256, nil), disktest.NoteManaged(disk.OpOpen, 3)},
		"open, another operation":         {disktest.NewRequest(disk.OpOpen, 256, nil), disktest.NoteManaged(disk.OpReset, 2)},
		"open, emptying":                  {disktest.NewRequest(disk.OpOpen, 256, nil), disktest.NoteEmptying(256)},
		"open of no zone's start":         {disktest.NewRequest(disk.OpOpen, 256+8, nil), disktest.NoteManaged(disk.OpOpen, 2)},
		"open of a conventional zone":     {disktest.NewRequest(disk.OpOpen, 0, nil), disktest.NoteManaged(disk.OpOpen, 0)},
		"open behind the disk":            {disktest.NewRequest(disk.OpOpen, 1<<40, nil), disktest.NoteManaged(disk.OpOpen, 1<<33)},
		"reset, past":                     {disktest.NewRequest(disk.OpReset, 256, nil), disktest.NotePast(0, 2)},
		"finish, done elsewhere":          {disktest.NewRequest(disk.OpFinish, 256, nil), disktest.NoteDone(256, 8)},
		"reset of all, done":              {disktest.NewRequest(disk.OpResetAll, 0, nil), disktest.NoteDone(0, 0)},
		"reset of all, past nothing":      {disktest.NewRequest(disk.OpResetAll, 0, nil), disktest.NotePast(0, -1)},
		"reset of all, past conventional": {disktest.NewRequest(disk.OpResetAll, 0, nil), disktest.NotePast(0, 1)},
		"reset of all, past the end":      {disktest.NewRequest(disk.OpResetAll, 0, nil), disktest.NotePast(0, 16)},
		"reset of all, far past the end":  {disktest.NewRequest(disk.OpResetAll, 0, nil), disktest.NotePast(0, 1<<39)},
		"reset of all, past of a range":   {disktest.NewRequest(disk.OpResetAll, 0, nil), disktest.NotePast(1, 3)},
		"erase, managed":                  {erase(disk.Range{Sector: 256, Sectors: 128}), disktest.NoteManaged(disk.OpSecureErase, 2)},
		"erase, past another zone":        {erase(disk.Range{Sector: 256, Sectors: 128}), disktest.NotePast(0, 5)},
		"erase, past a zone before":       {erase(disk.Range{Sector: 256, Sectors: 128}), disktest.NotePast(0, 1)},
		"erase, past its ranges":          {erase(disk.Range{Sector: 256, Sectors: 128}), disktest.NotePast(1, 2)},
		"erase, far past its ranges":      {erase(disk.Range{Sector: 256, Sectors: 128}), disktest.NotePast(1<<16-1, 2)},
		"erase of nothing, past":          {erase(), disktest.NotePast(0, 2)},
	}
	disks := map[string]func(t *testing.T) disk.Disk{
		"image": func(t *testing.T) disk.Disk { return openDisk(t, newFastImage(t, disktest.Small)) },
		"drive": func(t *testing.T) disk.Disk { return newFakeDrive(t, disktest.Small, nil, nil) },
	}
	for kind, open := range disks {
		t.Run(kind, func(t *testing.T) {
			d := open(t)
			c := disktest.NewClient(t, d)
			for i := range uint64(3) {
				c.WantError(c.Write((2+i)*128, disktest.Pattern('v', 4096)), nil)
			}
			for what, tt := range cases {
				r := *tt.r
				m := &disk.Note{tt.m[0], tt.m[1]}
				disk.Claim(d, disk.Run(d), []*disk.Note{m})
				claimed := m.Load()
				if err := c.Resume(&r, m); err == nil && claimed.What != disk.NothingNoted {
					t.Errorf("%s: answered as done", what)
				} else if claimed.What != disk.NothingNoted && !errors.Is(err, disk.ErrIO) && !errors.Is(err, disk.ErrUnsupported) {
					t.Errorf("%s: %v", what, err)
				}
			}
			for i := range 3 {
				if z := d.ReportZone(2 + i); z.WP != z.Start+8 {
					t.Errorf("zone %d was changed: %+v", 2+i, z)
				}
			}
			if kind == "image" {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A failed sync has cost the live table its trust: a write whose mark says done is not
// answered as done where the data is gone.
func TestDoneMarkOfALostWrite(t *testing.T) {
	path := newFastImage(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	d.(*zoned).img.resumable = false // as open finds it
	c.WantError(c.Resume(disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('a', 4096)), disktest.NoteDone(256, 8)), nil)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 384, disktest.Pattern('a', 4096)), disktest.NoteDone(384, 8)), disk.ErrIO)
	closeDisk(t, d, path)
}

// Claims of a drive's zone that cannot have been made, each beside one that can.
func TestForgedDriveClaims(t *testing.T) {
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

// Thousands of notes may name one zone, in any order, in one ring after another: to find
// their places takes a step or two for each.
func TestManyClaimsInOneZone(t *testing.T) {
	const n = 1 << 13
	g := zone.Geometry{CapacitySectors: 3 << 14, ZoneSectors: 1 << 14}
	disks := map[string]func(t *testing.T) (disk.Disk, *int){
		"image": func(t *testing.T) (disk.Disk, *int) {
			d := openDisk(t, newFastImage(t, g))
			t.Cleanup(func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
			return d, &d.(*zoned).claims.steps
		},
		"drive": func(t *testing.T) (disk.Disk, *int) {
			d := newFakeDrive(t, g, nil, nil)
			return d, &d.claims.steps
		},
	}
	for kind, open := range disks {
		t.Run(kind, func(t *testing.T) {
			d, steps := open(t)
			rng := rand.New(rand.NewPCG(1, 2))
			var marks []*disk.Note
			for i := range uint64(n) {
				marks = append(marks, disktest.NoteInFlight(1<<14+i, 1))
			}
			rng.Shuffle(n, func(i, j int) { marks[i], marks[j] = marks[j], marks[i] })
			var forged []*disk.Note
			for i := range uint64(n) { // from the first one on, and over all of the others
				forged = append(forged, disktest.NoteInFlight(1<<14, i+1))
			}
			disk.Claim(d, disk.Run(d), marks[:n/2])
			disk.Claim(d, disk.Run(d), forged)
			disk.Claim(d, disk.Run(d), marks[n/2:])
			left := 0
			for _, m := range marks {
				if m.Load().What == disk.NotedAddress {
					left++
				}
			}
			if most := 4 * n; left < n/2 || *steps > most {
				t.Errorf("%d of %d are claimed, in %d steps, want %d at most", left, n, *steps, most)
			}
			t.Logf("%d claims of %d marks in %d steps; the square is of %d bits", left, 2*n, *steps, 2*bits.Len(n))
			for _, m := range append(marks, forged...) {
				disk.Release(d, m)
			}
			c := disktest.NewClient(t, d)
			c.WantError(c.ZoneOp(disk.OpReset, 1<<14), nil)
			c.WantError(c.Write(1<<14, disktest.Pattern('n', 512)), nil)
		})
	}
}
