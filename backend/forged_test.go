package backend

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// doneAt is the mark of a write that is done, and managedOf that of zone management.
func doneAt(sector, sectors uint64) *disk.Note {
	m := inFlightAt(sector, sectors)
	m.Done(sector)
	return m
}

func managedOf(op disk.Op, zone int) *disk.Note {
	m := new(disk.Note)
	m.Managed(op, zone)
	return m
}

func pastZone(seg uint32, zone int) *disk.Note {
	m := new(disk.Note)
	m.Past(seg, zone)
	return m
}

func emptyingOf(sector uint64) *disk.Note {
	m := new(disk.Note)
	m.Emptying(sector)
	return m
}

// A note is in memory that a front-end can write to. A request is not answered as done
// because of one that no daemon can have stored for it.
func TestForgedMarks(t *testing.T) {
	erase := func(ranges ...disk.Range) *disk.Request {
		r := request(disk.OpSecureErase, 0, nil)
		r.Ranges = ranges
		return r
	}
	block := pattern('f', 4096)
	cases := map[string]struct {
		r *disk.Request
		m *disk.Note
	}{
		"flush, done":                     {request(disk.OpFlush, 0, nil), doneAt(0, 0)},
		"flush, done like management":     {request(disk.OpFlush, 0, nil), managedOf(disk.OpFlush, 0)},
		"flush, past":                     {request(disk.OpFlush, 0, nil), pastZone(0, 15)},
		"read, done":                      {request(disk.OpRead, 256, make([]byte, 4096)), doneAt(256, 8)},
		"report, done":                    {&disk.Request{Op: disk.OpReport, Bytes: 1}, doneAt(0, 0)},
		"conventional write, done":        {request(disk.OpWrite, 0, block), doneAt(0, 8)},
		"conventional append, done":       {request(disk.OpAppend, 0, block), doneAt(0, 8)},
		"write behind the disk, done":     {request(disk.OpWrite, 1<<40, block), doneAt(1<<40, 8)},
		"write, done elsewhere":           {request(disk.OpWrite, 256, block), doneAt(256+8, 8)},
		"write, longer than done":         {request(disk.OpWrite, 256, block), doneAt(256, 4)},
		"write, shorter than done":        {request(disk.OpWrite, 256, block), doneAt(256, 16)},
		"write of nothing, done":          {request(disk.OpWrite, 256, nil), doneAt(256, 0)},
		"write over the capacity, done":   {request(disk.OpWrite, 256+92, block), doneAt(256+92, 8)},
		"append, done in another zone":    {request(disk.OpAppend, 256, block), doneAt(384, 8)},
		"append, done behind the zone":    {request(disk.OpAppend, 256, block), doneAt(256+92, 8)},
		"append to no zone's start, done": {request(disk.OpAppend, 256+8, block), doneAt(256+8, 8)},
		"append over the limit, done":     {request(disk.OpAppend, 256, pattern('f', 64*512)), doneAt(256, 64)},
		"write, managed":                  {request(disk.OpWrite, 256, block), managedOf(disk.OpOpen, 2)},
		"open, done":                      {request(disk.OpOpen, 256, nil), doneAt(0, 0)},
		"open of another zone":            {request(disk.OpOpen, 256, nil), managedOf(disk.OpOpen, 3)},
		"open, another operation":         {request(disk.OpOpen, 256, nil), managedOf(disk.OpReset, 2)},
		"open, emptying":                  {request(disk.OpOpen, 256, nil), emptyingOf(256)},
		"open of no zone's start":         {request(disk.OpOpen, 256+8, nil), managedOf(disk.OpOpen, 2)},
		"open of a conventional zone":     {request(disk.OpOpen, 0, nil), managedOf(disk.OpOpen, 0)},
		"open behind the disk":            {request(disk.OpOpen, 1<<40, nil), managedOf(disk.OpOpen, 1<<33)},
		"reset, past":                     {request(disk.OpReset, 256, nil), pastZone(0, 2)},
		"finish, done elsewhere":          {request(disk.OpFinish, 256, nil), doneAt(256, 8)},
		"reset of all, done":              {request(disk.OpResetAll, 0, nil), doneAt(0, 0)},
		"reset of all, past nothing":      {request(disk.OpResetAll, 0, nil), pastZone(0, -1)},
		"reset of all, past conventional": {request(disk.OpResetAll, 0, nil), pastZone(0, 1)},
		"reset of all, past the end":      {request(disk.OpResetAll, 0, nil), pastZone(0, 16)},
		"reset of all, far past the end":  {request(disk.OpResetAll, 0, nil), pastZone(0, 1<<39)},
		"reset of all, past of a range":   {request(disk.OpResetAll, 0, nil), pastZone(1, 3)},
		"erase, managed":                  {erase(disk.Range{Sector: 256, Sectors: 128}), managedOf(disk.OpSecureErase, 2)},
		"erase, past another zone":        {erase(disk.Range{Sector: 256, Sectors: 128}), pastZone(0, 5)},
		"erase, past a zone before":       {erase(disk.Range{Sector: 256, Sectors: 128}), pastZone(0, 1)},
		"erase, past its ranges":          {erase(disk.Range{Sector: 256, Sectors: 128}), pastZone(1, 2)},
		"erase, far past its ranges":      {erase(disk.Range{Sector: 256, Sectors: 128}), pastZone(1<<16-1, 2)},
		"erase of nothing, past":          {erase(), pastZone(0, 2)},
	}
	disks := map[string]func(t *testing.T) disk.Disk{
		"image": func(t *testing.T) disk.Disk { return openDisk(t, newFastImage(t, small)) },
		"drive": func(t *testing.T) disk.Disk { return newFakeDrive(t, small, nil, nil) },
	}
	for kind, open := range disks {
		t.Run(kind, func(t *testing.T) {
			d := open(t)
			c := newClient(t, d)
			for i := range uint64(3) {
				c.want(c.write((2+i)*128, pattern('v', 4096)), nil)
			}
			for what, tt := range cases {
				r := *tt.r
				m := &disk.Note{tt.m[0], tt.m[1]}
				disk.Claim(d, disk.Run(d), []*disk.Note{m})
				claimed := m.Load()
				if err := c.resume(&r, m); err == nil && claimed.What != disk.NothingNoted {
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
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c := newClient(t, d)
	c.want(c.write(256, pattern('a', 4096)), nil)
	d.(*zoned).img.resumable = false // as open finds it
	c.want(c.resume(request(disk.OpWrite, 256, pattern('a', 4096)), doneAt(256, 8)), nil)
	c.want(c.resume(request(disk.OpAppend, 384, pattern('a', 4096)), doneAt(384, 8)), disk.ErrIO)
	closeDisk(t, d, path)
}

// Claims of a drive's zone that cannot have been made, each beside one that can.
func TestForgedDriveClaims(t *testing.T) {
	g := small
	g.BlockSize = 4096
	d := newFakeDrive(t, g, nil, nil)
	c := newClient(t, d)
	c.want(c.write(3*128, pattern('v', 8192)), nil)
	good := []*disk.Note{inFlightAt(256+8, 16), inFlightAt(3*128+16, 8), inFlightAt(4*128, 8)}
	disk.Claim(d, disk.Run(d), good)
	for what, m := range map[string]*disk.Note{
		"the same": inFlightAt(256+8, 16), "the end of it": inFlightAt(256+16, 8), "over it": inFlightAt(256, 32), "into it": inFlightAt(256, 16), "out of it": inFlightAt(256+16, 16),
		"within a block": inFlightAt(5*128+4, 8), "a part of a block": inFlightAt(5*128, 4), "less than a sector over": inFlightAt(5*128, 12),
	} {
		disk.Claim(d, disk.Run(d), []*disk.Note{m})
		if m.Load().What != disk.NotedFailed {
			t.Errorf("%s: claimed", what)
		}
	}
	beside := []*disk.Note{inFlightAt(256, 8), inFlightAt(256+24, 8)}
	disk.Claim(d, disk.Run(d), beside)
	// Two that the write pointer has passed cannot be at one place either.
	passed := []*disk.Note{inFlightAt(3*128, 8), inFlightAt(3*128, 16), inFlightAt(3*128+8, 8)}
	disk.Claim(d, disk.Run(d), passed)
	wantMark(t, passed[0], disk.NotedDone)
	wantMark(t, passed[1], disk.NotedFailed)
	wantMark(t, passed[2], disk.NotedDone)
	for _, m := range append(good, beside...) {
		wantMark(t, m, disk.NotedAddress)
		disk.Release(d, m)
	}
	c.want(c.write(256, pattern('n', 4096)), nil)
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
				marks = append(marks, inFlightAt(1<<14+i, 1))
			}
			rng.Shuffle(n, func(i, j int) { marks[i], marks[j] = marks[j], marks[i] })
			var forged []*disk.Note
			for i := range uint64(n) { // from the first one on, and over all of the others
				forged = append(forged, inFlightAt(1<<14, i+1))
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
			c := newClient(t, d)
			c.want(c.zoneOp(disk.OpReset, 1<<14), nil)
			c.want(c.write(1<<14, pattern('n', 512)), nil)
		})
	}
}
