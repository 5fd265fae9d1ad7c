package backend

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A faultyModel is what a disk with faults has to be: told in the words of the
// documentation, one request at a time. Its zones have no limits.
type faultyModel struct {
	g      zone.Geometry
	zones  []faultyZone
	faults []modelFault
}

type faultyZone struct {
	state   zone.State // Empty stands for all that is writable
	written uint64
	data    []byte
}

type modelFault struct {
	id     uint64
	f      disk.Fault
	struck uint64
	room   uint64
}

// names says whether f is about an operation on these sectors.
func (m *faultyModel) names(f *disk.Fault, op disk.Op, first, sectors uint64) bool {
	if !disk.FaultOps[f.Kind].Has(op) || f.Ops != 0 && !f.Ops.Has(op) || op == disk.OpFlush && f.Place != disk.Everywhere {
		return false
	}
	if op == disk.OpFlush {
		return true
	}
	if f.After != 0 && sectors <= f.After {
		return false
	}
	for s := first; s < first+sectors; s++ {
		at := s
		if f.Place == disk.InZones {
			at = s / m.g.ZoneSectors
		}
		if f.Place == disk.Everywhere || f.First <= at && at <= f.Last {
			return true
		}
	}
	return false
}

// happens says how a request ends that is right, and how many sectors land.
func (m *faultyModel) happens(op disk.Op, first, sectors uint64) (ok bool, lands uint64) {
	ok, lands = true, sectors
	for i := range m.faults {
		f := &m.faults[i]
		if f.f.Kind == disk.FaultFull || f.f.Times != 0 && f.struck == uint64(f.f.Times) || !m.names(&f.f, op, first, sectors) {
			continue
		}
		if f.f.Kind == disk.FaultLatency {
			f.struck++
		} else if ok {
			f.struck++
			ok, lands = false, f.f.After/(uint64(m.g.BlockSize)/disk.SectorSize)*(uint64(m.g.BlockSize)/disk.SectorSize)
		}
	}
	for i := range m.faults {
		f := &m.faults[i]
		if f.f.Kind != disk.FaultFull || op != disk.OpWrite && op != disk.OpAppend || !ok {
			continue
		}
		if f.room >= sectors*disk.SectorSize {
			f.room -= sectors * disk.SectorSize
		} else {
			f.struck++
			ok, lands = false, 0
		}
	}
	return ok, lands
}

func drawFault(t *rapid.T, g *zone.Geometry) disk.Fault {
	f := disk.Fault{Kind: disk.FaultKind(rapid.IntRange(int(disk.FaultRead), int(disk.FaultFull)).Draw(t, "kind"))}
	switch f.Kind {
	case disk.FaultFull:
		f.Left = rapid.Uint64Range(0, 64<<10).Draw(t, "left")
		return f
	case disk.FaultLatency:
		f.Delay = time.Microsecond
		f.Ops = rapid.SampledFrom([]disk.OpSet{0, disk.SetOf(disk.OpRead), disk.SetOf(disk.OpWrite, disk.OpFlush), disk.SetOf(disk.OpAppend)}).Draw(t, "ops")
	case disk.FaultWrite, disk.FaultAppend:
		f.After = rapid.Uint64Range(0, 20).Draw(t, "after")
	}
	f.Times = rapid.Uint32Range(0, 3).Draw(t, "times")
	if f.Kind == disk.FaultFlush {
		return f
	}
	most := g.CapacitySectors - 1
	if f.Place = disk.Place(rapid.IntRange(0, 2).Draw(t, "place")); f.Place == disk.InZones {
		most = uint64(g.Zones()) - 1
	}
	if f.Place != disk.Everywhere {
		f.First = rapid.Uint64Range(0, most).Draw(t, "first")
		f.Last = rapid.Uint64Range(f.First, most).Draw(t, "last")
	}
	return f
}

// Random faults come and go, zones change their states, and random requests that
// are right meet them: each ends as the model says, every other zone stays as it
// was, and what landed is there after a restart.
func TestFaultsAgainstModel(t *testing.T) {
	dir := disktest.FastDir(t)
	rapid.Check(t, func(t *rapid.T) {
		g := disktest.DrawGeometry(t)
		g.MaxOpen, g.MaxActive = 0, 0
		path := filepath.Join(dir, "faulty.zvh")
		_ = os.Remove(path)
		if err := image.Create(path, g); err != nil {
			t.Fatal(err)
		}
		d := openDisk(t, path)
		c := disktest.NewClient(t, d)
		m := &faultyModel{g: g, zones: make([]faultyZone, g.Zones())}
		for i := range m.zones {
			m.zones[i] = faultyZone{state: zone.Empty, data: make([]byte, g.Length(i)*disk.SectorSize)}
		}
		one := &faultyStep{t: t, c: c, m: m}
		t.Repeat(map[string]func(*rapid.T){
			"add":    one.add,
			"clear":  one.clear,
			"write":  func(t *rapid.T) { one.write(t, disk.OpWrite) },
			"append": func(t *rapid.T) { one.write(t, disk.OpAppend) },
			"read":   one.read,
			"flush":  func(t *rapid.T) { one.is("flush", c.Flush(), first(m.happens(disk.OpFlush, 0, 0))) },
			"reset":  one.reset,
			"set":    one.set,
			"":       one.check,
		})
		d.Faults().ClearAll()
		one.same(c)
		imagetest.CloseDisk(t, d, path)
		d = openDisk(t, path)
		one.same(disktest.NewClient(t, d))
		imagetest.CloseDisk(t, d, path)
	})
}

func first(ok bool, _ uint64) bool { return ok }

type faultyStep struct {
	t    *rapid.T
	c    *disktest.Client
	m    *faultyModel
	seed byte
}

// is checks an outcome against whether it has to be good.
func (s *faultyStep) is(what string, err error, good bool) {
	s.t.Helper()
	if good && err != nil || !good && !errors.Is(err, disk.ErrIO) {
		s.t.Fatalf("%s: %v, but it has to succeed: %v; %+v", what, err, good, s.c.Disk.Faults().List())
	}
}

func (s *faultyStep) zone(t *rapid.T) (int, *faultyZone) {
	i := rapid.IntRange(0, len(s.m.zones)-1).Draw(t, "zone")
	return i, &s.m.zones[i]
}

func (s *faultyStep) add(t *rapid.T) {
	f := drawFault(t, &s.m.g)
	ids, err := s.c.Disk.Faults().Add(f)
	if err != nil {
		t.Fatal(err)
	}
	s.m.faults = append(s.m.faults, modelFault{id: ids[0], f: f, room: f.Left})
}

func (s *faultyStep) clear(t *rapid.T) {
	if len(s.m.faults) == 0 {
		return
	}
	i := rapid.IntRange(0, len(s.m.faults)-1).Draw(t, "fault")
	if err := s.c.Disk.Faults().Clear(s.m.faults[i].id); err != nil {
		t.Fatal(err)
	}
	s.m.faults = append(s.m.faults[:i:i], s.m.faults[i+1:]...)
}

func (s *faultyStep) write(t *rapid.T, op disk.Op) {
	i, z := s.zone(t)
	g := &s.m.g
	block := uint64(g.BlockSize) / disk.SectorSize
	from, room := z.written, g.Capacity(i)-z.written
	if g.Conventional(i) {
		op, from = disk.OpWrite, rapid.Uint64Range(0, g.Length(i)/block-1).Draw(t, "from")*block
		room = g.Length(i) - from
	}
	if op == disk.OpAppend {
		room = min(room, uint64(g.MaxAppendSectors))
	}
	if z.state != zone.Empty || room == 0 {
		return
	}
	sectors := rapid.Uint64Range(1, room/block).Draw(t, "blocks") * block
	s.seed++
	data := disktest.Pattern(s.seed, int(sectors)*disk.SectorSize)
	start := uint64(i) * g.ZoneSectors
	ok, lands := s.m.happens(op, start+from, sectors)
	at := start + from
	if op == disk.OpAppend {
		at = start
	}
	s.is(op.String(), s.c.Do(disktest.NewRequest(op, at, data)), ok)
	copy(z.data[from*disk.SectorSize:], data[:lands*disk.SectorSize])
	if !g.Conventional(i) {
		if z.written += lands; z.written == g.Capacity(i) {
			z.state = zone.Full
		}
	}
}

func (s *faultyStep) read(t *rapid.T) {
	i, z := s.zone(t)
	if z.state == zone.Offline {
		return
	}
	block := uint64(s.m.g.BlockSize) / disk.SectorSize
	blocks := s.m.g.Length(i) / block
	from := rapid.Uint64Range(0, blocks-1).Draw(t, "from")
	sectors := rapid.Uint64Range(1, blocks-from).Draw(t, "blocks") * block
	buf := disktest.Pattern(0xee, int(sectors)*disk.SectorSize)
	at := uint64(i)*s.m.g.ZoneSectors + from*block
	ok, _ := s.m.happens(disk.OpRead, at, sectors)
	s.is("read", s.c.Do(disktest.NewRequest(disk.OpRead, at, buf)), ok)
	if ok && !bytes.Equal(buf, z.data[from*block*disk.SectorSize:][:len(buf)]) {
		t.Fatalf("%d sectors of zone %d from %d on read as something else", sectors, i, from*block)
	}
}

func (s *faultyStep) reset(t *rapid.T) {
	i, z := s.zone(t)
	err := s.c.ZoneOp(disk.OpReset, uint64(i)*s.m.g.ZoneSectors)
	if s.m.g.Conventional(i) || z.state == zone.ReadOnly || z.state == zone.Offline {
		if !errors.Is(err, zone.ErrInvalid) {
			t.Fatal(err)
		}
		return
	}
	s.is("reset", err, true)
	z.state, z.written = zone.Empty, 0
	clear(z.data)
}

func (s *faultyStep) set(t *rapid.T) {
	i, z := s.zone(t)
	to := rapid.SampledFrom(targets).Draw(t, "to")
	err := SetZoneStates(s.c.Disk, []int{i}, to)
	if s.m.g.Conventional(i) && (to == ToFull || to == ToEmpty) {
		if err == nil {
			t.Fatal("a conventional zone was made full or empty")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	switch to {
	case ToReadOnly:
		z.state = zone.ReadOnly
	case ToOffline:
		z.state = zone.Offline
	case ToFull:
		z.state = zone.Full
	case ToEmpty:
		z.state, z.written = zone.Empty, 0
		clear(z.data)
	case ToWritable:
		if z.state == zone.ReadOnly || z.state == zone.Offline {
			if z.state = zone.Empty; !s.m.g.Conventional(i) && z.written == s.m.g.Capacity(i) {
				z.state = zone.Full
			}
		}
	}
}

// check compares every zone's report and every fault's count.
func (s *faultyStep) check(t *rapid.T) {
	for i := range s.m.zones {
		z, got := &s.m.zones[i], s.c.Disk.ReportZone(i)
		want := got
		want.WP = got.Start + z.written
		switch {
		case z.state != zone.Empty:
			want.State = z.state
		case s.m.g.Conventional(i):
			want.State = zone.NotWP
		case z.written == 0:
			want.State = zone.Empty
		case got.State != zone.ImpOpen && got.State != zone.Closed:
			t.Fatalf("zone %d is %v with %d sectors written", i, got.State, z.written)
		}
		switch {
		case want.Type == zone.Conventional:
			want.WP = got.Start
		case want.State == zone.Full:
			want.WP = got.Start + got.Length
		case want.State == zone.Offline:
			want.WP = got.Start
		}
		if got != want {
			t.Fatalf("zone %d is %+v, want %+v", i, got, want)
		}
	}
	list := s.c.Disk.Faults().List()
	if len(list) != len(s.m.faults) {
		t.Fatalf("%d faults, want %d", len(list), len(s.m.faults))
	}
	for i, f := range s.m.faults {
		if list[i].ID != f.id || list[i].Struck != f.struck {
			t.Fatalf("%+v, want %d strikes", list[i], f.struck)
		}
	}
}

// same compares the data of all zones, with no faults left.
func (s *faultyStep) same(c *disktest.Client) {
	for i := range s.m.zones {
		if z := &s.m.zones[i]; z.state != zone.Offline && !bytes.Equal(c.Read(uint64(i)*s.m.g.ZoneSectors, len(z.data)), z.data) {
			s.t.Fatalf("zone %d holds something else", i)
		}
	}
}
