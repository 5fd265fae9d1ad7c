package backend

import (
	"bytes"
	"errors"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// What a request does stands in its note when it is done.
func TestMarksOfRequests(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	do := func(op disk.Op, sector uint64, data []byte, ranges ...disk.Range) (disk.Noted, error) {
		r := disktest.NewRequest(op, sector, data)
		r.Ranges, r.Note = ranges, new(disk.Note)
		err := c.Do(r)
		return r.Note.Load(), err
	}
	data := disktest.Pattern(1, 4096)
	if m, err := do(disk.OpAppend, 256, data); err != nil || m.What != disk.NotedDone || m.Sector != 256 || m.Sectors != 8 {
		t.Errorf("append: %v, %+v", err, m)
	}
	if m, err := do(disk.OpWrite, 264, data); err != nil || m.What != disk.NotedDone || m.Sector != 264 {
		t.Errorf("write: %v, %+v", err, m)
	}
	if m, err := do(disk.OpWrite, 264, data); !errors.Is(err, zone.ErrUnaligned) || m.What != disk.NothingNoted {
		t.Errorf("write elsewhere: %v, %+v", err, m)
	}
	for _, op := range []disk.Op{disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset} {
		if m, err := do(op, 256, nil); err != nil || m.What != disk.NotedDone {
			t.Errorf("%v: %v, %+v", op, err, m)
		}
	}
	if m, err := do(disk.OpClose, 256, nil); !errors.Is(err, zone.ErrInvalid) || m.What != disk.NothingNoted {
		t.Errorf("close of an empty zone: %v, %+v", err, m)
	}
	if m, err := do(disk.OpResetAll, 0, nil); err != nil || m.What != disk.NotedZones || m.Zone != 16 {
		t.Errorf("reset of all: %v, %+v", err, m)
	}
	if m, err := do(disk.OpSecureErase, 256, nil, disk.Range{Sector: 256, Sectors: 256}, disk.Range{Sector: 1792, Sectors: 128}); err != nil || m.What != disk.NotedZones || m.Zone != 15 || m.Seg != 1 {
		t.Errorf("erase: %v, %+v", err, m)
	}
	for _, op := range []disk.Op{disk.OpRead, disk.OpFlush} {
		if m, err := do(op, 0, data); err != nil || m.What != disk.NothingNoted {
			t.Errorf("%v: %v, %+v", op, err, m)
		}
	}
	if m, err := do(disk.OpWrite, 0, data); err != nil || m.What != disk.NothingNoted {
		t.Errorf("conventional: %v, %+v", err, m)
	}
	imagetest.CloseDisk(t, d, path)
}

// A write whose address is claimed is finished there: what comes before it, in
// time, goes behind it, and a reset and a flush wait for it.
func TestClaimedWritesAreFinishedWhereTheyWere(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	second, first := disktest.NoteInFlight(256+8, 8), disktest.NoteInFlight(256, 8)
	disk.Claim(d, disk.Run(d), []*disk.Note{second, first})
	c.WantZone(2, zone.Empty, 0) // nothing has landed
	if at, err := c.Append(256, disktest.Pattern(3, 4096)); err != nil || at != 256+16 {
		t.Fatalf("an append meanwhile: at %d, %v", at, err)
	}
	c.WantZone(2, zone.ImpOpen, 24)
	late := []*disk.Request{disktest.NewRequest(disk.OpFlush, 0, nil), disktest.NewRequest(disk.OpReset, 256, nil)}
	c.Submit(late[0], late[1])
	if r := c.Lane.Done(); r != nil {
		t.Errorf("%v did not wait", r.Op)
	}
	again := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern(2, 4096))
	again.Note = second
	c.Lane.Resume(d, again)
	write := disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern(1, 4096))
	write.Note = first
	c.Lane.Resume(d, write)
	c.Lane.Start()
	done := map[*disk.Request]bool{}
	for len(done) < 4 {
		r := c.Wait()
		if r.Err != nil {
			t.Errorf("%v: %v", r.Op, r.Err)
		}
		if r == late[1] && !(done[again] && done[write]) {
			t.Error("the reset came before the writes")
		}
		done[r] = true
	}
	if again.AppendSector != 256+8 {
		t.Errorf("the append is at %d", again.AppendSector)
	}
	disktest.WantNote(t, first, disk.NotedDone)
	disktest.WantNote(t, second, disk.NotedDone)
	c.WantZone(2, zone.Empty, 0)
	imagetest.CloseDisk(t, d, path)
}

// The data of claimed writes is where it was, also where nobody saw an answer.
func TestClaimedDataIsThere(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	m := disktest.NoteInFlight(256, 8)
	disk.Claim(d, disk.Run(d), []*disk.Note{m})
	if _, err := c.Append(256, disktest.Pattern(2, 4096)); err != nil {
		t.Fatal(err)
	}
	if err := c.Resume(disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern(1, 4096)), m); err != nil {
		t.Fatal(err)
	}
	if got := c.Read(256, 8192); !bytes.Equal(got, append(disktest.Pattern(1, 4096), disktest.Pattern(2, 4096)...)) {
		t.Error("the zone holds something else")
	}
	// Once more, as if it had died before it could answer: nothing happens.
	if r := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern(9, 4096)); c.Resume(r, m) != nil || r.AppendSector != 256 {
		t.Errorf("answered with %d, %v", r.AppendSector, r.Err)
	}
	c.WantZone(2, zone.ImpOpen, 16)
	imagetest.CloseDisk(t, d, path)
}

// A claim whose request never comes, or comes as another one, reads as zeroes.
func TestClaimsThatAreGivenUp(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	gone, other, last := disktest.NoteInFlight(256, 8), disktest.NoteInFlight(256+8, 8), disktest.NoteInFlight(256+24, 8)
	disk.Claim(d, disk.Run(d), []*disk.Note{gone, other, last, disktest.NoteInFlight(256+16, 8)})
	disk.Release(d, gone)
	disk.Release(d, gone) // nothing is left of it
	c.WantError(c.Resume(disktest.NewRequest(disk.OpWrite, 256+8, disktest.Pattern(1, 512)), other), disk.ErrIO)
	if err := c.Resume(disktest.NewRequest(disk.OpWrite, 256+24, disktest.Pattern(4, 4096)), last); err != nil {
		t.Fatal(err)
	}
	want := append(make([]byte, 3*4096), disktest.Pattern(4, 4096)...)
	if got := c.Read(256, len(want)); !bytes.Equal(got, want) {
		t.Error("something stands in the place of what was given up")
	}
	for _, m := range []*disk.Note{gone, other} {
		disktest.WantNote(t, m, disk.NotedFailed)
	}
	c.WantError(c.Resume(disktest.NewRequest(disk.OpWrite, 256+8, disktest.Pattern(1, 4096)), other), disk.ErrIO)
	d.(*zoned).claims.mu.Lock()
	left := len(d.(*zoned).claims.of)
	d.(*zoned).claims.mu.Unlock()
	if left != 1 {
		t.Errorf("%d claims are left", left)
	}
	for m := range d.(*zoned).claims.of {
		disk.Release(d, m)
	}
	imagetest.CloseDisk(t, d, path)
}

// What a daemon has claimed and leaves to the next one is claimed by that: in an image
// that was closed in good order, and where nobody else was given the place.
func TestClaimsThatAreLeft(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	first, second := disktest.NoteInFlight(256, 8), disktest.NoteInFlight(256+8, 8)
	disk.Claim(d, disk.Run(d), []*disk.Note{first, second})
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern(1, 4096)), first), nil)
	disk.Unclaim(d, second)
	disk.Unclaim(d, second)
	disktest.WantNote(t, second, disk.NotedAddress)
	c.WantZone(2, zone.ImpOpen, 8)
	imagetest.CloseDisk(t, d, path)

	d = openDisk(t, path)
	c = disktest.NewClient(t, d)
	disk.Claim(d, disk.Run(d), []*disk.Note{first, second})
	if at, err := c.Append(256, disktest.Pattern(3, 4096)); err != nil || at != 256+16 {
		t.Errorf("an append meanwhile: at %d, %v", at, err)
	}
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern(2, 4096)), second), nil)
	if got := c.Read(256, 8192); !bytes.Equal(got, append(disktest.Pattern(1, 4096), disktest.Pattern(2, 4096)...)) {
		t.Error("the zone holds something else")
	}
	imagetest.CloseDisk(t, d, path)
}

// Marks that nobody has written like that, or of another user, cost their
// requests an error and nothing else.
func TestClaimsThatCannotBe(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	if err := c.ZoneOp(disk.OpFinish, 3*128); err != nil {
		t.Fatal(err)
	}
	good := disktest.NoteInFlight(256, 8)
	bad := map[string]*disk.Note{
		"conventional zone": disktest.NoteInFlight(0, 8), "behind the disk": disktest.NoteInFlight(1<<40, 8), "nothing": disktest.NoteInFlight(512, 0),
		"above the capacity": disktest.NoteInFlight(2*128+92, 8), "over all": disktest.NoteInFlight(256, 1<<60), "finished zone": disktest.NoteInFlight(3*128, 8),
		"the same place": disktest.NoteInFlight(256+4, 8),
	}
	disk.Claim(d, disk.Run(d), []*disk.Note{good})
	for what, m := range bad {
		disk.Claim(d, disk.Run(d), []*disk.Note{m})
		if m.Load().What != disk.NotedFailed {
			t.Errorf("%s: claimed", what)
		}
		c.WantError(c.Resume(disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern(1, 4096)), m), disk.ErrIO)
	}
	disk.Release(d, good)
	old := disk.Run(d)
	run, err := disk.Renew(d)
	if err != nil || run == old || run != disk.Run(d) {
		t.Fatalf("from %d to %d, %v", old, run, err)
	}
	m, past := disktest.NoteInFlight(256, 8), new(disk.Note)
	past.Past(0, 3)
	disk.Claim(d, old, []*disk.Note{m, past})
	disktest.WantNote(t, m, disk.NotedFailed)
	disktest.WantNote(t, past, disk.NotedFailed)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openDisk(t, path)
	if disk.Run(d) != run {
		t.Errorf("the image has forgotten its user")
	}
	imagetest.CloseDisk(t, d, path)
}

// A reset of all zones goes on behind those that it is done with: what was written
// to them since stays.
func TestResetAllGoesOn(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	for _, zn := range []uint64{256, 3 * 128} {
		if _, err := c.Append(zn, disktest.Pattern(1, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	m := new(disk.Note)
	m.Past(0, 2)
	if err := c.Resume(disktest.NewRequest(disk.OpResetAll, 0, nil), m); err != nil {
		t.Fatal(err)
	}
	c.WantZone(2, zone.ImpOpen, 8)
	c.WantZone(3, zone.Empty, 0)
	erase := disktest.NewRequest(disk.OpSecureErase, 256, nil)
	erase.Ranges = []disk.Range{{Sector: 256, Sectors: 128}, {Sector: 3 * 128, Sectors: 128}}
	if _, err := c.Append(3*128, disktest.Pattern(1, 4096)); err != nil {
		t.Fatal(err)
	}
	past := new(disk.Note)
	past.Past(0, 2)
	if err := c.Resume(erase, past); err != nil {
		t.Fatal(err)
	}
	c.WantZone(2, zone.ImpOpen, 8)
	c.WantZone(3, zone.Empty, 0)
	imagetest.CloseDisk(t, d, path)
}

// A note may stand in memory that a front-end can write to, or be another daemon's,
// that could write: what it says of requests that are not so ends with an error.
func TestDoneMarksThatCannotBe(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	done := func(sector uint64) *disk.Note {
		m := disktest.NoteInFlight(sector, 8)
		m.Done(sector)
		return m
	}
	managed := func(op disk.Op, zone int) *disk.Note {
		m := new(disk.Note)
		m.Managed(op, zone)
		return m
	}
	stable := func(r *disk.Request, ranges ...disk.Range) *disk.Request {
		r.Stable, r.Ranges = true, ranges
		return r
	}
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	erase := stable(disktest.NewRequest(disk.OpSecureErase, 1<<40, nil), disk.Range{Sector: 1 << 40, Sectors: 1 << 20})
	c.WantError(c.Resume(erase, done(256)), disk.ErrIO) // nobody notes it like that
	c.WantError(c.Resume(stable(disktest.NewRequest(disk.OpReset, 256, nil)), managed(disk.OpReset, 2)), nil)
	imagetest.CloseDisk(t, d, path)

	d, err := Open(path, disk.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	c = disktest.NewClient(t, d)
	for op, m := range map[disk.Op]*disk.Note{disk.OpAppend: done(256), disk.OpReset: managed(disk.OpReset, 2)} {
		c.WantError(c.Resume(disktest.NewRequest(op, 256, disktest.Pattern('a', 4096)), m), nil)
		c.WantError(c.Resume(stable(disktest.NewRequest(op, 256, disktest.Pattern('a', 4096))), m), disk.ErrReadOnly)
	}
	for _, op := range []disk.Op{disk.OpWrite, disk.OpClose, disk.OpFinish, disk.OpResetAll, disk.OpSecureErase, disk.OpFlush} {
		for _, m := range []*disk.Note{disktest.NoteInFlight(256, 8), done(256), new(disk.Note)} {
			if m.Load().What == disk.NothingNoted {
				m.Past(0, 3)
			}
			disk.Claim(d, disk.Run(d), []*disk.Note{m})
			if err := c.Resume(stable(disktest.NewRequest(op, 256, disktest.Pattern('a', 4096))), m); err == nil {
				t.Errorf("%v, with the mark %+v: done", op, m.Load())
			}
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A disk is closed while there are claims that nobody has come for: the session goes on
// in another process, which finds them as this one did.
func TestCloseLeavesClaims(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(4*128, disktest.Pattern('o', 88*512)), nil)
	// Behind one of them others write; one is all of its zone; one was to fill it.
	behind, alone, last := disktest.NoteInFlight(256, 8), disktest.NoteInFlight(384, 8), disktest.NoteInFlight(4*128+88, 4)
	marks := []*disk.Note{behind, alone, last}
	disk.Claim(d, disk.Run(d), marks)
	if at, err := c.Append(256, disktest.Pattern('b', 4096)); err != nil || at != 256+8 {
		t.Fatalf("an append meanwhile: at %d, %v", at, err)
	}
	if at, err := c.Append(4*128, disktest.Pattern('b', 2048)); err != nil || at != 4*128+92 {
		t.Fatalf("an append meanwhile: at %d, %v", at, err)
	}
	imagetest.CloseDisk(t, d, path)

	d = openDisk(t, path)
	c = disktest.NewClient(t, d)
	c.WantZone(2, zone.ImpOpen, 16)
	c.WantZone(3, zone.Empty, 0)
	c.WantZone(4, zone.Full, 96)
	for _, m := range marks {
		disktest.WantNote(t, m, disk.NotedAddress)
	}
	disk.Claim(d, disk.Run(d), marks)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('a', 4096)), behind), nil)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpWrite, 384, disktest.Pattern('a', 4096)), alone), nil)
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 4*128, disktest.Pattern('a', 2048)), last), nil)
	if got := c.Read(256, 8192); !bytes.Equal(got, append(disktest.Pattern('a', 4096), disktest.Pattern('b', 4096)...)) {
		t.Error("zone 2 holds something else")
	}
	if got := c.Read(4*128+88, 4096); !bytes.Equal(got, append(disktest.Pattern('a', 2048), disktest.Pattern('b', 2048)...)) {
		t.Error("zone 4 holds something else")
	}
	c.WantZone(3, zone.ImpOpen, 8)
	imagetest.CloseDisk(t, d, path)
}
