package backend

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/zvhost/zvhost/backend/zone"
)

// doneAt is the mark of a write that is done, and managedOf that of zone management.
func doneAt(sector, sectors uint64) *Mark {
	m := inFlightAt(sector, sectors)
	m.done(sector)
	return m
}

func managedOf(op Op, zone int) *Mark {
	m := new(Mark)
	m.managed(op, zone)
	return m
}

func pastZone(seg uint32, zone int) *Mark {
	m := new(Mark)
	m.past(seg, zone)
	return m
}

func emptyingOf(sector uint64) *Mark {
	m := new(Mark)
	m.emptying(sector)
	return m
}

// A mark is in memory that a front-end can write to. A request is not answered as done
// because of one that no daemon can have stored for it.
func TestForgedMarks(t *testing.T) {
	erase := func(ranges ...Range) *Request {
		r := request(OpSecureErase, 0, nil)
		r.Ranges = ranges
		return r
	}
	block := pattern('f', 4096)
	cases := map[string]struct {
		r *Request
		m *Mark
	}{
		"flush, done":                     {request(OpFlush, 0, nil), doneAt(0, 0)},
		"flush, done like management":     {request(OpFlush, 0, nil), managedOf(OpFlush, 0)},
		"flush, past":                     {request(OpFlush, 0, nil), pastZone(0, 15)},
		"read, done":                      {request(OpRead, 256, make([]byte, 4096)), doneAt(256, 8)},
		"report, done":                    {&Request{Op: OpReport, Bytes: 1}, doneAt(0, 0)},
		"conventional write, done":        {request(OpWrite, 0, block), doneAt(0, 8)},
		"conventional append, done":       {request(OpAppend, 0, block), doneAt(0, 8)},
		"write behind the disk, done":     {request(OpWrite, 1<<40, block), doneAt(1<<40, 8)},
		"write, done elsewhere":           {request(OpWrite, 256, block), doneAt(256+8, 8)},
		"write, longer than done":         {request(OpWrite, 256, block), doneAt(256, 4)},
		"write, shorter than done":        {request(OpWrite, 256, block), doneAt(256, 16)},
		"write of nothing, done":          {request(OpWrite, 256, nil), doneAt(256, 0)},
		"write over the capacity, done":   {request(OpWrite, 256+92, block), doneAt(256+92, 8)},
		"append, done in another zone":    {request(OpAppend, 256, block), doneAt(384, 8)},
		"append, done behind the zone":    {request(OpAppend, 256, block), doneAt(256+92, 8)},
		"append to no zone's start, done": {request(OpAppend, 256+8, block), doneAt(256+8, 8)},
		"append over the limit, done":     {request(OpAppend, 256, pattern('f', 64*512)), doneAt(256, 64)},
		"write, managed":                  {request(OpWrite, 256, block), managedOf(OpOpen, 2)},
		"open, done":                      {request(OpOpen, 256, nil), doneAt(0, 0)},
		"open of another zone":            {request(OpOpen, 256, nil), managedOf(OpOpen, 3)},
		"open, another operation":         {request(OpOpen, 256, nil), managedOf(OpReset, 2)},
		"open, emptying":                  {request(OpOpen, 256, nil), emptyingOf(256)},
		"open of no zone's start":         {request(OpOpen, 256+8, nil), managedOf(OpOpen, 2)},
		"open of a conventional zone":     {request(OpOpen, 0, nil), managedOf(OpOpen, 0)},
		"open behind the disk":            {request(OpOpen, 1<<40, nil), managedOf(OpOpen, 1<<33)},
		"reset, past":                     {request(OpReset, 256, nil), pastZone(0, 2)},
		"finish, done elsewhere":          {request(OpFinish, 256, nil), doneAt(256, 8)},
		"reset of all, done":              {request(OpResetAll, 0, nil), doneAt(0, 0)},
		"reset of all, past nothing":      {request(OpResetAll, 0, nil), pastZone(0, -1)},
		"reset of all, past conventional": {request(OpResetAll, 0, nil), pastZone(0, 1)},
		"reset of all, past the end":      {request(OpResetAll, 0, nil), pastZone(0, 16)},
		"reset of all, far past the end":  {request(OpResetAll, 0, nil), pastZone(0, 1<<39)},
		"reset of all, past of a range":   {request(OpResetAll, 0, nil), pastZone(1, 3)},
		"erase, managed":                  {erase(Range{Sector: 256, Sectors: 128}), managedOf(OpSecureErase, 2)},
		"erase, past another zone":        {erase(Range{Sector: 256, Sectors: 128}), pastZone(0, 5)},
		"erase, past a zone before":       {erase(Range{Sector: 256, Sectors: 128}), pastZone(0, 1)},
		"erase, past its ranges":          {erase(Range{Sector: 256, Sectors: 128}), pastZone(1, 2)},
		"erase, far past its ranges":      {erase(Range{Sector: 256, Sectors: 128}), pastZone(1<<16-1, 2)},
		"erase of nothing, past":          {erase(), pastZone(0, 2)},
	}
	disks := map[string]func(t *testing.T) Disk{
		"image": func(t *testing.T) Disk { return openDisk(t, newFastImage(t, small)) },
		"drive": func(t *testing.T) Disk { return newFakeDrive(t, small, nil, nil) },
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
				m := &Mark{tt.m[0], tt.m[1]}
				Claim(d, Run(d), []*Mark{m})
				claimed := m.load()
				if err := c.resume(&r, m); err == nil && claimed.what != markNone {
					t.Errorf("%s: answered as done", what)
				} else if claimed.what != markNone && !errors.Is(err, ErrIO) && !errors.Is(err, ErrUnsupported) {
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
	c.want(c.resume(request(OpWrite, 256, pattern('a', 4096)), doneAt(256, 8)), nil)
	c.want(c.resume(request(OpAppend, 384, pattern('a', 4096)), doneAt(384, 8)), ErrIO)
	closeDisk(t, d, path)
}

// Claims of a drive's zone that cannot have been made, each beside one that can.
func TestForgedDriveClaims(t *testing.T) {
	g := small
	g.BlockSize = 4096
	d := newFakeDrive(t, g, nil, nil)
	c := newClient(t, d)
	c.want(c.write(3*128, pattern('v', 8192)), nil)
	good := []*Mark{inFlightAt(256+8, 16), inFlightAt(3*128+16, 8), inFlightAt(4*128, 8)}
	Claim(d, Run(d), good)
	for what, m := range map[string]*Mark{
		"the same": inFlightAt(256+8, 16), "the end of it": inFlightAt(256+16, 8), "over it": inFlightAt(256, 32), "into it": inFlightAt(256, 16), "out of it": inFlightAt(256+16, 16),
		"within a block": inFlightAt(5*128+4, 8), "a part of a block": inFlightAt(5*128, 4), "less than a sector over": inFlightAt(5*128, 12),
	} {
		Claim(d, Run(d), []*Mark{m})
		if m.load().what != markFailed {
			t.Errorf("%s: claimed", what)
		}
	}
	beside := []*Mark{inFlightAt(256, 8), inFlightAt(256+24, 8)}
	Claim(d, Run(d), beside)
	// Two that the write pointer has passed cannot be at one place either.
	passed := []*Mark{inFlightAt(3*128, 8), inFlightAt(3*128, 16), inFlightAt(3*128+8, 8)}
	Claim(d, Run(d), passed)
	wantMark(t, passed[0], markDone)
	wantMark(t, passed[1], markFailed)
	wantMark(t, passed[2], markDone)
	for _, m := range append(good, beside...) {
		wantMark(t, m, markAt)
		Release(d, m)
	}
	c.want(c.write(256, pattern('n', 4096)), nil)
}

// Thousands of marks may name one zone, in any order, in one ring after another: to find
// their places takes a step or two for each.
func TestManyClaimsInOneZone(t *testing.T) {
	const n = 1 << 13
	g := zone.Geometry{CapacitySectors: 3 << 14, ZoneSectors: 1 << 14}
	disks := map[string]func(t *testing.T) (Disk, *int){
		"image": func(t *testing.T) (Disk, *int) {
			d := openDisk(t, newFastImage(t, g))
			t.Cleanup(func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
			return d, &d.(*zoned).claims.steps
		},
		"drive": func(t *testing.T) (Disk, *int) {
			d := newFakeDrive(t, g, nil, nil)
			return d, &d.claims.steps
		},
	}
	for kind, open := range disks {
		t.Run(kind, func(t *testing.T) {
			d, steps := open(t)
			rng := rand.New(rand.NewPCG(1, 2))
			var marks []*Mark
			for i := range uint64(n) {
				marks = append(marks, inFlightAt(1<<14+i, 1))
			}
			rng.Shuffle(n, func(i, j int) { marks[i], marks[j] = marks[j], marks[i] })
			var forged []*Mark
			for i := range uint64(n) { // from the first one on, and over all of the others
				forged = append(forged, inFlightAt(1<<14, i+1))
			}
			Claim(d, Run(d), marks[:n/2])
			Claim(d, Run(d), forged)
			Claim(d, Run(d), marks[n/2:])
			left := 0
			for _, m := range marks {
				if m.load().what == markAt {
					left++
				}
			}
			if most := 4 * n; left < n/2 || *steps > most {
				t.Errorf("%d of %d are claimed, in %d steps, want %d at most", left, n, *steps, most)
			}
			t.Logf("%d claims of %d marks in %d steps; the square is of %d bits", left, 2*n, *steps, 2*bits.Len(n))
			for _, m := range append(marks, forged...) {
				Release(d, m)
			}
			c := newClient(t, d)
			c.want(c.zoneOp(OpReset, 1<<14), nil)
			c.want(c.write(1<<14, pattern('n', 512)), nil)
		})
	}
}
