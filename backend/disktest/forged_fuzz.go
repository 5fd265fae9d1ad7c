package disktest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/testleak"
)

// NotesGeometry is the disk of FuzzNotes: two conventional zones, and a last zone that is
// smaller.
var NotesGeometry = zone.Geometry{
	CapacitySectors: 7*16 + 8, ZoneSectors: 16, ZoneCapacitySectors: 12, ConventionalZones: 2, MaxOpen: 3, MaxActive: 4, MaxAppendSectors: 8,
}

// maxForged is how many requests with a note an input has at most.
const maxForged = 12

// A forged is a request that is resumed, and the note that somebody has stored for it.
type forged struct {
	r     *disk.Request
	m     *disk.Note
	found disk.Noted // what Claim has left of it
	never bool       // its request does not come
}

// FuzzNotes has requests resumed whose notes are whatever a front-end has stored, with new
// requests among them. Whatever it is: no panic; each request ends, though others never
// come; none without a note, and none with a note that is not its own, is answered by its
// note; and zones that neither a note nor a request names hold what they held.
//
// open makes a disk of NotesGeometry for each input, and end closes it. filled says that
// its zones hold what FillForNotes writes already. rewrites says that a write which is
// resumed is carried out again, even where the write pointer has passed it, as a drive
// cannot.
//
// An input is a byte of modes and up to maxForged requests of 8 bytes: operation and how,
// zone, offset in it, sectors; what the note says, the zone and offset or range of it, and
// its length.
func FuzzNotes(f *testing.F, open func(t *testing.T) (d disk.Disk, end func()), filled, rewrites bool) {
	for _, s := range noteSeeds() {
		f.Add(s)
	}
	rounds := 0
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		// Descriptors and mappings are counted now and then: it takes long.
		if rounds++; rounds%64 == 1 {
			before := testleak.Take()
			t.Cleanup(func() {
				if leaks := before.WaitFiles(); len(leaks) > 0 {
					t.Error(leaks)
				}
			})
		}
		d, end := open(t)
		if !filled {
			FillForNotes(t, d)
		}
		forgeNotes(t, d, NewClient(t, d), rewrites, in)
		end()
	})
}

// victim is what zone i holds before anything is forged: 4 sectors.
func victim(i int) []byte { return Pattern(byte('A'+i), 4*disk.SectorSize) }

// FillForNotes writes to all zones of d but the last two.
func FillForNotes(t TB, d disk.Disk) {
	c := NewClient(t, d)
	for i := range 6 {
		c.WantError(c.Write(uint64(i)*NotesGeometry.ZoneSectors, victim(i)), nil)
		if i >= NotesGeometry.ConventionalZones {
			c.WantError(c.ZoneOp([]disk.Op{disk.OpFinish, disk.OpClose}[i&1], uint64(i)*NotesGeometry.ZoneSectors), nil)
		}
	}
}

// forgeNotes is one execution.
func forgeNotes(t *testing.T, d disk.Disk, c *Client, rewrites bool, in []byte) {
	var all []*forged
	named := map[int]bool{}
	for b := in[1:]; len(b) >= 8 && len(all) < maxForged; b = b[8:] {
		all = append(all, forge(b, named))
	}
	was := make([]zone.Descriptor, d.Info().Zoned.Zones)
	for i := range was {
		was[i] = d.ReportZone(i)
	}
	run := disk.Run(d)
	if in[0]&2 != 0 && run != 0 {
		run++
	}
	notes := make([]*disk.Note, len(all))
	for i, a := range all {
		notes[i] = a.m
	}
	disk.Claim(d, run, notes)
	for _, a := range all {
		a.found = a.m.Load()
	}
	left := map[*disk.Request]*forged{}
	for i, a := range all {
		switch {
		case a.never:
			disk.Release(d, a.m)
			continue
		case in[0]&4 != 0 && i%2 == 1: // one that is new, in the middle
			flush := NewRequest(disk.OpFlush, 0, nil)
			left[flush] = &forged{r: flush, found: disk.Noted{}}
			c.Lane.Submit(d, flush)
		}
		left[a.r] = a
		a.r.Note = a.m
		c.Lane.Resume(d, a.r)
		if in[0]&8 != 0 {
			c.Lane.Start()
		}
	}
	c.Lane.Start()
	for len(left) > 0 {
		r := c.Wait()
		a := left[r]
		if a == nil {
			t.Fatalf("%v ended, which was not in flight", r.Op)
		}
		delete(left, r)
		a.judge(t, d, len(all) == 1, rewrites, c)
	}
	for i := range was {
		is := d.ReportZone(i)
		if named[i] || named[-1] {
			continue
		}
		if is.WP != was[i].WP || is.State != was[i].State {
			t.Errorf("zone %d, which nobody has named, was %+v and is %+v", i, was[i], is)
		}
		if i < 6 && !bytes.Equal(c.Read(uint64(i)*NotesGeometry.ZoneSectors, 4*disk.SectorSize), victim(i)) {
			t.Errorf("zone %d, which nobody has named, holds something else", i)
		}
	}
}

// judge looks at a request that has ended.
func (a *forged) judge(t *testing.T, d disk.Disk, alone, rewrites bool, c *Client) {
	r, was := a.r, a.found
	if r.Err != nil || was.What == disk.NothingNoted || r.Note == nil {
		return
	}
	zone := int(r.Sector / NotesGeometry.ZoneSectors)
	isWrite := r.Op == disk.OpWrite || r.Op == disk.OpAppend
	switch {
	case r.Op == disk.OpRead || r.Op == disk.OpFlush || r.Op == disk.OpReport || isWrite && zone < NotesGeometry.ConventionalZones:
		t.Errorf("%v, which no daemon notes anything of, ended well with the note %+v", r.Op, was)
	case was.What == disk.NotedFailed || was.What > disk.NotedChangingOneOf:
		t.Errorf("%v ended well with the note %+v", r.Op, was)
	case was.What == disk.NotedAddress && !isWrite, was.What == disk.NotedZones && r.Op != disk.OpResetAll && r.Op != disk.OpSecureErase, was.What == disk.NotedEmptying && r.Op != disk.OpClose, was.What == disk.NotedChanging && was.Op() != r.Op:
		t.Errorf("%v ended well with the note %+v", r.Op, was)
	case was.What == disk.NotedDone && !isWrite && was.Op() != r.Op, was.What == disk.NotedDone && disk.ZoneEvents[r.Op] != 0 && was.Zone != zone:
		t.Errorf("%v at %d ended well with the note %+v", r.Op, r.Sector, was)
	case isWrite && (was.Sectors != r.Bytes>>disk.SectorShift || int(was.Sector/NotesGeometry.ZoneSectors) != zone || r.Op == disk.OpWrite && was.Sector != r.Sector):
		t.Errorf("%v of %d bytes at %d ended well with the note %+v", r.Op, r.Bytes, r.Sector, was)
	case isWrite && was.What == disk.NotedAddress && alone && r.AppendSector+was.Sectors <= d.Info().CapacitySectors:
		at := was.Sector
		if rewrites && !bytes.Equal(c.Read(at, int(r.Bytes)), Pattern('n', int(r.Bytes))) {
			t.Errorf("%v at %d ended well, and something else is there", r.Op, at)
		}
	}
}

// forge makes a request and its note of 8 bytes, and notes in named the zones that they
// name, -1 for all of them.
func forge(b []byte, named map[int]bool) *forged {
	size := NotesGeometry.ZoneSectors
	sector := func(zone, off byte) uint64 { return uint64(zone&0xf)*size + uint64(off&0xf) }
	a := &forged{r: &disk.Request{Op: disk.Op(b[0]&0xf) % disk.NumOps}, m: new(disk.Note), never: b[0]&0x80 != 0}
	r := a.r
	r.Stable = b[0]&0x40 != 0
	r.Sector = sector(b[1], b[2])
	n := uint64(b[3] & 0xf)
	switch r.Op {
	case disk.OpWrite, disk.OpAppend, disk.OpRead:
		*r = disk.Request{Op: r.Op, Stable: r.Stable, Sector: r.Sector, Bytes: n << disk.SectorShift}
		if n > 0 {
			data := Pattern('n', int(r.Bytes))
			r.Iov = []unix.Iovec{{Base: &data[0], Len: r.Bytes}}
		}
	case disk.OpReport:
		r.Bytes = n
	case disk.OpSecureErase:
		r.Ranges = []disk.Range{{Sector: uint64(b[1]&0xf) * size, Sectors: uint32(b[2]&3) * uint32(size)}, {Sector: uint64(b[3]&0xf) * size, Sectors: uint32(size)}}[:b[3]>>6&1+1]
		for _, s := range r.Ranges {
			for at := s.Sector / size; at < (s.Sector+uint64(s.Sectors))/size; at++ {
				named[int(at)] = true
			}
		}
	case disk.OpResetAll:
		named[-1] = true
	}
	named[int(r.Sector/size)] = true
	if n > 0 {
		named[int((r.Sector+n-1)/size)] = true
	}
	w := sector(b[5], b[6])
	if b[4]&0x10 != 0 { // as management and what goes over zones have it
		w = uint64(b[5]) | uint64(b[6])<<40
	}
	if b[4]&0x20 != 0 {
		w |= uint64(b[7]) << 48
	}
	a.m[0], a.m[1] = uint64(b[4]&0xf)|w<<8, uint64(b[7]&0x1f)
	if b[4]&0x40 != 0 {
		a.m[1] = binary.LittleEndian.Uint64(bytes.Repeat(b[7:8], 8))
	}
	if s := a.m.Load().Sector / size; s < 1<<32 {
		named[int(s)] = true
	}
	return a
}

// noteSeeds are notes as daemons leave them, one to each request, and ones that agree with
// nothing.
func noteSeeds() (seeds [][]byte) {
	reqs := [][]byte{
		{byte(disk.OpWrite), 3, 4, 4, disk.NotedAddress, 3, 4, 4}, {byte(disk.OpAppend), 6, 0, 4, disk.NotedAddress, 6, 0, 4}, {byte(disk.OpWrite), 3, 0, 4, disk.NotedDone, 3, 0, 4},
		{byte(disk.OpAppend), 3, 0, 4, disk.NotedDone, 3, 0, 4}, {byte(disk.OpFlush), 0, 0, 0, disk.NotedDone, 0, 0, 0}, {byte(disk.OpRead), 3, 0, 4, disk.NotedDone, 3, 0, 4},
		{byte(disk.OpOpen), 3, 0, 0, disk.NotedDone | 0x10, 3, byte(disk.OpOpen), 0}, {byte(disk.OpReset), 3, 0, 0, disk.NotedDone | 0x10, 3, byte(disk.OpReset), 0},
		{byte(disk.OpClose), 3, 0, 0, disk.NotedEmptying, 3, 0, 0}, {byte(disk.OpResetAll), 0, 0, 0, disk.NotedZones | 0x10, 4, 0, 0},
		{byte(disk.OpReset), 3, 0, 0, disk.NotedChanging | 0x10, 3, byte(disk.OpReset), 0}, {byte(disk.OpResetAll), 0, 0, 0, disk.NotedChangingOneOf | 0x10, 4, 0, 0},
		{byte(disk.OpSecureErase), 3, 2, 0, disk.NotedZones | 0x10, 4, 0, 0}, {byte(disk.OpWrite), 0, 0, 4, disk.NotedAddress, 0, 0, 4}, {byte(disk.OpReport), 0, 0, 7, disk.NotedFailed, 0, 0, 0},
	}
	for mode := byte(0); mode < 16; mode += 2 {
		for i := range reqs {
			seeds = append(seeds, slices.Concat([]byte{mode}, reqs[i], reqs[(i+int(mode))%len(reqs)], reqs[(i+1)%len(reqs)]))
		}
	}
	seeds = append(seeds,
		slices.Concat([]byte{0}, reqs[0], reqs[0], []byte{byte(disk.OpWrite), 3, 6, 4, disk.NotedAddress, 3, 6, 4}),
		slices.Concat([]byte{0}, []byte{byte(disk.OpWrite) | 0x80, 6, 4, 4, disk.NotedAddress, 6, 4, 4}, []byte{byte(disk.OpAppend), 6, 0, 4, disk.NotedAddress, 6, 0, 4}),
		slices.Concat([]byte{0}, []byte{byte(disk.OpResetAll), 0, 0, 0, disk.NotedZones | 0x30, 255, 255, 255}),
		slices.Concat([]byte{0}, []byte{byte(disk.OpAppend), 6, 0, 4, disk.NotedAddress | 0x60, 255, 255, 255}))
	return seeds
}
