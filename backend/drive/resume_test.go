package drive

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// A daemon dies with writes and appends in flight on a drive, some of which the
// drive has carried out, one perhaps in part: the next one finishes each where it
// was, once.
func TestResumesWrites(t *testing.T) {
	for seed := range uint64(300) {
		if err := resumeDrive(t, rand.New(rand.NewPCG(seed, 1)), seed%2 == 0); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func resumeDrive(t *testing.T, rng *rand.Rand, cached bool) error {
	g := disktest.Small
	before := newFakeDrive(t, g, nil, nil)
	before.dev.cached = cached
	e := &fakeEngine{dev: before.dev, hold: func(op *engine.Op) bool { return op.Code == engine.Writev }}
	lane, err := disk.NewLane(func(func()) (engine.Engine, error) { return e, nil })
	if err != nil {
		return err
	}
	defer func() { _ = lane.Close() }()
	const zn = 3
	start := uint64(zn) * g.ZoneSectors
	var all []*disk.Request
	answered := map[*disk.Request]bool{}
	guess := uint64(0)
	for id := range 2 + rng.IntN(8) {
		n := uint64(1 + rng.IntN(8))
		r := disktest.NewRequest(disk.OpAppend, start, disktest.Pattern(byte(id+1), int(n)*disk.SectorSize))
		if rng.IntN(2) == 0 {
			r.Op, r.Sector = disk.OpWrite, start+guess
		}
		guess += n
		r.Note, r.Tag = new(disk.Note), uint32(id)
		all = append(all, r)
		lane.Submit(before, r)
		lane.Start()
		for len(e.kept) > 0 && rng.IntN(3) == 0 {
			e.release()
		}
		for done := lane.Done(); done != nil; done = lane.Done() {
			answered[done] = true
		}
	}
	if len(e.kept) > 0 && rng.IntN(2) == 0 { // in part, or whole, and nobody hears of it
		op := *e.kept[0]
		landed := rng.Int64N(op.Len>>disk.SectorShift+1) << disk.SectorShift
		before.dev.failing(engine.Writev, landed>>disk.SectorShift, unix.EIO)
		before.dev.do(&op)
		before.dev.fault = nil
	}

	d := openFakeDrive(t, g, before.dev, nil, false)
	c := disktest.NewClient(t, d)
	var again []*disk.Request
	var marks []*disk.Note
	for _, was := range all {
		if answered[was] {
			continue
		}
		r := disktest.NewRequest(was.Op, was.Sector, disktest.Pattern(byte(was.Tag+1), int(was.Bytes)))
		r.Note, r.Tag = was.Note, was.Tag
		again, marks = append(again, r), append(marks, r.Note)
	}
	if len(marks) == 0 {
		return nil
	}
	disk.Claim(d, disk.Run(d), marks)
	late := disktest.NewRequest(disk.OpAppend, start, disktest.Pattern(200, disk.SectorSize))
	if marks[0].Load().What == disk.NotedAddress && (len(marks) == 1 || again[1].Op == disk.OpAppend && len(again) == 2) {
		c.Submit(late) // somebody else: it goes behind those that have an address
	}
	rng.Shuffle(len(again), func(i, j int) {
		if again[i].Note.Load().What == disk.NotedAddress && again[j].Note.Load().What == disk.NotedAddress {
			again[i], again[j] = again[j], again[i]
		}
	})
	for _, r := range again {
		c.Lane.Resume(d, r)
	}
	if late.Lane == nil {
		c.Submit(late)
	}
	c.Lane.Start()
	for range len(again) + 1 {
		if r := c.Wait(); r.Err != nil && r != late {
			return fmt.Errorf("request %d, %v: %w", r.Tag, r.Op, r.Err)
		}
	}
	content := c.Read(start, int(guess+1)*disk.SectorSize)
	seen := map[byte]uint64{}
	for at := range guess + 1 {
		b := content[at*disk.SectorSize]
		if at > 0 && b != content[(at-1)*disk.SectorSize] && seen[b] != 0 {
			return fmt.Errorf("request %d stands there twice", b-1)
		}
		seen[b]++
	}
	for _, r := range all {
		if seen[byte(r.Tag+1)] != r.Bytes>>disk.SectorShift {
			return fmt.Errorf("request %d has %d sectors, not %d", r.Tag, seen[byte(r.Tag+1)], r.Bytes>>disk.SectorShift)
		}
	}
	return late.Err
}

// What the kernel knows of a drive says empty of zones that a guest has opened and not
// written. The daemon that comes after one that died, or that ended, has it from the
// drive before it decides anything about them, and asks nothing when it starts.
func TestRemembersOpenZones(t *testing.T) {
	open := map[int]zone.State{2: zone.ExpOpen, 3: zone.ExpOpen, 4: zone.ExpOpen}
	again := func(readOnly bool) (*fakeDrive, *disktest.Client) {
		d := newFakeDrive(t, disktest.Small, open, nil)
		d.dev.cached = true
		d.dev.ops = nil
		d = openFakeDrive(t, disktest.Small, d.dev, nil, readOnly)
		if n := len(d.dev.ops); n > 0 {
			t.Errorf("%d zones were looked at", n)
		}
		return d, disktest.NewClient(t, d)
	}
	d, c := again(false)
	c.WantError(c.ZoneOp(disk.OpReset, 3*128), nil)
	c.WantError(c.ZoneOp(disk.OpClose, 256), nil)
	c.WantError(c.ZoneOp(disk.OpClose, 256), zone.ErrInvalid)
	c.WantError(c.ZoneOp(disk.OpClose, 5*128), zone.ErrInvalid)
	c.WantError(c.Write(4*128, disktest.Pattern('a', 512)), nil)
	for i, s := range map[int]zone.State{2: zone.Empty, 3: zone.Empty, 4: zone.ExpOpen, 5: zone.Empty} {
		if is := zone.State(d.dev.m.Zones[i].State); is != s {
			t.Errorf("zone %d of the drive is %v, want %v", i, is, s)
		}
		if w := d.Entry(i); w.State() != s {
			t.Errorf("zone %d is %v, want %v", i, w.State(), s)
		}
	}

	d, c = again(false)
	c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
	if s := zone.State(d.dev.m.Zones[3].State); s != zone.Empty {
		t.Errorf("a reset of all has left zone 3 %v", s)
	}

	// A close that was under way: of one zone it was done, of the other it was not.
	d, c = again(false)
	d.dev.set(3, zone.Empty)
	for i, stable := range []bool{false, true, false} {
		sector := uint64(2+i%2) * 128
		m := new(disk.Note)
		m.Emptying(sector)
		disk.Claim(d, disk.Run(d), []*disk.Note{m})
		r := disktest.NewRequest(disk.OpClose, sector, nil)
		r.Stable = stable
		c.WantError(c.Resume(r, m), nil)
		disktest.WantNote(t, m, disk.NotedDone)
		if s := zone.State(d.dev.m.Zones[2+i%2].State); s != zone.Empty {
			t.Errorf("zone %d was closed, and is %v", 2+i%2, s)
		}
	}
	other := new(disk.Note)
	other.Emptying(3 * 128)
	disk.Claim(d, disk.Run(d), []*disk.Note{other})
	c.WantError(c.Resume(disktest.NewRequest(disk.OpClose, 256, nil), other), disk.ErrIO) // not the request that it was

	_, c = again(true)
	c.WantError(c.ZoneOp(disk.OpOpen, 256), nil) // it is open
	c.WantError(c.ZoneOp(disk.OpOpen, 5*128), zone.ErrInvalid)
}

// What is claimed and never comes does not keep the zone; what cannot be is
// refused.
func TestClaims(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	if _, err := c.Append(256, disktest.Pattern(1, 4096)); err != nil {
		t.Fatal(err)
	}
	d = openFakeDrive(t, disktest.Small, d.dev, nil, false)
	c = disktest.NewClient(t, d)
	landed, lost, other := disktest.NoteInFlight(256, 8), disktest.NoteInFlight(256+8, 8), disktest.NoteInFlight(3*128, 8)
	bad := []*disk.Note{disktest.NoteInFlight(0, 8), disktest.NoteInFlight(1<<40, 8), disktest.NoteInFlight(512, 0), disktest.NoteInFlight(256+92, 8), disktest.NoteInFlight(256, 1<<60)}
	disk.Claim(d, disk.Run(d), append([]*disk.Note{landed, lost, other}, bad...))
	disktest.WantNote(t, landed, disk.NotedDone)
	for _, m := range bad {
		disktest.WantNote(t, m, disk.NotedFailed)
	}
	wait := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern(2, 4096))
	c.Submit(wait)
	if c.Lane.Done() != nil {
		t.Error("it did not wait")
	}
	disk.Release(d, lost)
	disk.Release(d, lost)
	if r := c.Wait(); r != wait || r.Err != nil || r.AppendSector != 256+8 {
		t.Errorf("%v at %d, %v", r.Op, r.AppendSector, r.Err)
	}
	c.WantError(c.Resume(disktest.NewRequest(disk.OpRead, 3*128, disktest.Pattern(0, 4096)), other), disk.ErrIO)
	if _, err := c.Append(3*128, disktest.Pattern(2, 4096)); err != nil {
		t.Error(err)
	}
	for _, op := range []disk.Op{disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset, disk.OpResetAll} {
		r := disktest.NewRequest(op, 256, nil)
		r.Note = new(disk.Note)
		if err := c.Do(r); err != nil {
			t.Error(op, err)
		}
		if op != disk.OpReset && r.Note.Load().What != disk.NotedDone {
			t.Errorf("%v is not marked", op)
		}
	}
}

// What a daemon has claimed and leaves to the next one is claimed by that.
func TestClaimsThatAreLeft(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	m := disktest.NoteInFlight(256, 8)
	disk.Claim(d, disk.Run(d), []*disk.Note{m})
	disk.Unclaim(d, m)
	disk.Unclaim(d, m)
	disktest.WantNote(t, m, disk.NotedAddress)
	c := disktest.NewClient(t, d)
	if _, err := c.Append(3*128, disktest.Pattern(1, 4096)); err != nil {
		t.Error(err)
	}
	c.WantError(c.ZoneOp(disk.OpReset, 256), nil) // nothing keeps the zone
	d = openFakeDrive(t, disktest.Small, d.dev, nil, false)
	c = disktest.NewClient(t, d)
	disk.Claim(d, disk.Run(d), []*disk.Note{m})
	c.WantError(c.Resume(disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern(2, 4096)), m), nil)
	disktest.WantNote(t, m, disk.NotedDone)
}
