package disktest

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// CheckForgedNotes resumes requests on d, a disk of Small with all zones empty, with notes
// that no daemon can have stored for them. A note is in memory that a front-end can write
// to: no request is answered as done because of such a note.
func CheckForgedNotes(t *testing.T, d disk.Disk) {
	t.Helper()
	erase := func(ranges ...disk.Range) *disk.Request {
		r := NewRequest(disk.OpSecureErase, 0, nil)
		r.Ranges = ranges
		return r
	}
	block := Pattern('f', 4096)
	cases := map[string]struct {
		r *disk.Request
		m *disk.Note
	}{
		"flush, done":                     {NewRequest(disk.OpFlush, 0, nil), NoteDone(0, 0)},
		"flush, done like management":     {NewRequest(disk.OpFlush, 0, nil), NoteManaged(disk.OpFlush, 0)},
		"flush, past":                     {NewRequest(disk.OpFlush, 0, nil), NotePast(0, 15)},
		"read, done":                      {NewRequest(disk.OpRead, 256, make([]byte, 4096)), NoteDone(256, 8)},
		"report, done":                    {&disk.Request{Op: disk.OpReport, Bytes: 1}, NoteDone(0, 0)},
		"conventional write, done":        {NewRequest(disk.OpWrite, 0, block), NoteDone(0, 8)},
		"conventional append, done":       {NewRequest(disk.OpAppend, 0, block), NoteDone(0, 8)},
		"write behind the disk, done":     {NewRequest(disk.OpWrite, 1<<40, block), NoteDone(1<<40, 8)},
		"write, done elsewhere":           {NewRequest(disk.OpWrite, 256, block), NoteDone(256+8, 8)},
		"write, longer than done":         {NewRequest(disk.OpWrite, 256, block), NoteDone(256, 4)},
		"write, shorter than done":        {NewRequest(disk.OpWrite, 256, block), NoteDone(256, 16)},
		"write of nothing, done":          {NewRequest(disk.OpWrite, 256, nil), NoteDone(256, 0)},
		"write over the capacity, done":   {NewRequest(disk.OpWrite, 256+92, block), NoteDone(256+92, 8)},
		"append, done in another zone":    {NewRequest(disk.OpAppend, 256, block), NoteDone(384, 8)},
		"append, done behind the zone":    {NewRequest(disk.OpAppend, 256, block), NoteDone(256+92, 8)},
		"append to no zone's start, done": {NewRequest(disk.OpAppend, 256+8, block), NoteDone(256+8, 8)},
		"append over the limit, done":     {NewRequest(disk.OpAppend, 256, Pattern('f', 64*512)), NoteDone(256, 64)},
		"write, managed":                  {NewRequest(disk.OpWrite, 256, block), NoteManaged(disk.OpOpen, 2)},
		"open, done":                      {NewRequest(disk.OpOpen, 256, nil), NoteDone(0, 0)},
		"open of another zone":            {NewRequest(disk.OpOpen, 256, nil), NoteManaged(disk.OpOpen, 3)},
		"open, another operation":         {NewRequest(disk.OpOpen, 256, nil), NoteManaged(disk.OpReset, 2)},
		"open, emptying":                  {NewRequest(disk.OpOpen, 256, nil), NoteEmptying(256)},
		"open of no zone's start":         {NewRequest(disk.OpOpen, 256+8, nil), NoteManaged(disk.OpOpen, 2)},
		"open of a conventional zone":     {NewRequest(disk.OpOpen, 0, nil), NoteManaged(disk.OpOpen, 0)},
		"open behind the disk":            {NewRequest(disk.OpOpen, 1<<40, nil), NoteManaged(disk.OpOpen, 1<<33)},
		"reset, past":                     {NewRequest(disk.OpReset, 256, nil), NotePast(0, 2)},
		"finish, done elsewhere":          {NewRequest(disk.OpFinish, 256, nil), NoteDone(256, 8)},
		"reset of all, done":              {NewRequest(disk.OpResetAll, 0, nil), NoteDone(0, 0)},
		"reset of all, past nothing":      {NewRequest(disk.OpResetAll, 0, nil), NotePast(0, -1)},
		"reset of all, past conventional": {NewRequest(disk.OpResetAll, 0, nil), NotePast(0, 1)},
		"reset of all, past the end":      {NewRequest(disk.OpResetAll, 0, nil), NotePast(0, 16)},
		"reset of all, far past the end":  {NewRequest(disk.OpResetAll, 0, nil), NotePast(0, 1<<39)},
		"reset of all, past of a range":   {NewRequest(disk.OpResetAll, 0, nil), NotePast(1, 3)},
		"erase, managed":                  {erase(disk.Range{Sector: 256, Sectors: 128}), NoteManaged(disk.OpSecureErase, 2)},
		"erase, past another zone":        {erase(disk.Range{Sector: 256, Sectors: 128}), NotePast(0, 5)},
		"erase, past a zone before":       {erase(disk.Range{Sector: 256, Sectors: 128}), NotePast(0, 1)},
		"erase, past its ranges":          {erase(disk.Range{Sector: 256, Sectors: 128}), NotePast(1, 2)},
		"erase, far past its ranges":      {erase(disk.Range{Sector: 256, Sectors: 128}), NotePast(1<<16-1, 2)},
		"erase of nothing, past":          {erase(), NotePast(0, 2)},
	}
	c := NewClient(t, d)
	for i := range uint64(3) {
		c.WantError(c.Write((2+i)*128, Pattern('v', 4096)), nil)
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
}

// ManyClaims is the geometry for CheckManyClaims.
var ManyClaims = zone.Geometry{CapacitySectors: 3 << 14, ZoneSectors: 1 << 14}

// CheckManyClaims claims thousands of addresses in one zone of d, a disk of ManyClaims, in
// any order and in one ring after another: finding their places takes a step or two each.
// steps is where d counts them.
func CheckManyClaims(t *testing.T, d disk.Disk, steps *int) {
	t.Helper()
	const n = 1 << 13
	rng := rand.New(rand.NewPCG(1, 2))
	var marks []*disk.Note
	for i := range uint64(n) {
		marks = append(marks, NoteInFlight(1<<14+i, 1))
	}
	rng.Shuffle(n, func(i, j int) { marks[i], marks[j] = marks[j], marks[i] })
	var forged []*disk.Note
	for i := range uint64(n) { // from the first one on, and over all of the others
		forged = append(forged, NoteInFlight(1<<14, i+1))
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
	c := NewClient(t, d)
	c.WantError(c.ZoneOp(disk.OpReset, 1<<14), nil)
	c.WantError(c.Write(1<<14, Pattern('n', 512)), nil)
}

// CheckNotesThatChange changes notes on d, a disk of Small with all zones empty, between
// Claim and Resume and afterwards, as a front-end can: that may fail the requests whose
// notes they are, but reserves no zone for ever and moves no write. stale, if not nil,
// leaves in a request what the disk stored there for an earlier one.
func CheckNotesThatChange(t *testing.T, d disk.Disk, stale func(*disk.Request)) {
	t.Helper()
	c := NewClient(t, d)
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
		m, other := NoteInFlight(start, 8), NoteInFlight(start+8, 8)
		disk.Claim(d, disk.Run(d), []*disk.Note{m, other})
		change(m)
		change(other)
		r := NewRequest(disk.OpAppend, start, Pattern(1, 4096))
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
	r := NewRequest(disk.OpAppend, start, Pattern(1, 4096))
	ok(c.Do(r))
	r = NewRequest(disk.OpAppend, start, Pattern(1, 4096))
	r.Note = NoteInFlight(start, 8)
	if stale != nil {
		stale(r)
	}
	ok(c.Do(r))
	if r.AppendSector != start+8 {
		t.Errorf("the append is at sector %d", r.AppendSector)
	}
}
