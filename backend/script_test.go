package backend

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// A script is a life of an image: requests on several lanes, restarts, kills
// and power cuts, all held against the model. Fuzzing and the property test
// write scripts.
type script struct {
	t     disktest.TB
	path  string
	disk  *zoned
	fs    *faultStore
	m     *disktest.Model
	lanes []*disktest.Twin
	// closers end the lanes of the disk that is open.
	closers []func()

	flushed *disktest.Model // what a power cut leaves, but for resets after the flush
	resets  map[int]bool
	steps   int
}

const scriptLanes = 3

func newScript(t disktest.TB, dir string, g zone.Geometry) *script {
	t.Helper()
	s := &script{t: t, path: filepath.Join(dir, "disk.zvh"), m: disktest.NewModel(g)}
	if err := image.Create(s.path, g); err != nil {
		t.Fatal(err)
	}
	s.flush()
	s.open()
	return s
}

// Helper, Error and so on make a script a tb for its lanes, whose clean-ups run
// when the disk is closed and not only when the test ends.
func (s *script) Helper()           { s.t.Helper() }
func (s *script) Error(args ...any) { s.t.Helper(); s.t.Error(args...) }
func (s *script) Errorf(f string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("step %d: "+f, append([]any{s.steps}, args...)...)
}
func (s *script) Fatal(args ...any)            { s.t.Helper(); s.t.Fatal(args...) }
func (s *script) Fatalf(f string, args ...any) { s.t.Helper(); s.t.Fatalf(f, args...) }
func (s *script) Cleanup(f func())             { s.closers = append(s.closers, f) }

func (s *script) open() {
	s.t.Helper()
	// The image does not tell which zone was opened first.
	slices.Sort(s.m.Opened)
	s.disk, s.fs = openFaulty(s.t, s.path)
	for range scriptLanes {
		s.lanes = append(s.lanes, disktest.NewTwin(s, s.disk, s.m))
	}
}

func (s *script) dropLanes() {
	for _, f := range s.closers {
		f()
	}
	s.closers, s.lanes = nil, nil
}

// end closes the disk and checks and removes the image.
func (s *script) end() {
	s.t.Helper()
	s.lanes[0].CompareAll()
	s.dropLanes()
	imagetest.CloseDisk(s.t, s.disk, s.path)
	if err := os.Remove(s.path); err != nil {
		s.t.Error(err)
	}
}

// abort lets everything go after a failure, so that shrinking can go on.
func (s *script) abort() {
	if s.lanes == nil {
		return
	}
	s.dropLanes()
	_ = s.disk.Close()
	_ = os.Remove(s.path)
}

// one carries one request out on a lane.
func (s *script) one(lane int, op disk.Op, sector, bytes uint64, stable bool) {
	s.t.Helper()
	s.steps++
	w := s.lanes[lane%scriptLanes]
	r := w.NewRequest(op, sector, bytes)
	r.Stable = stable
	before := slices.Clone(s.m.Zones)
	if !w.Both(r) || !w.CompareZones() {
		return
	}
	s.note(before)
	if r.Err == nil && (op == disk.OpFlush || stable && op != disk.OpRead && !(disktest.IsWriteOp(op) && bytes == 0)) {
		s.flush()
	}
}

// note remembers which zones were reset: a reset is durable some time after its
// answer, and before the next write of the zone lands.
func (s *script) note(before []disktest.ModelZone) {
	for i, z := range before {
		if now := s.m.Zones[i].State; now == zonemodel.Empty && z.State != now {
			s.resets[i] = true
		}
	}
}

// flush notes what a power cut would leave from now on.
func (s *script) flush() {
	s.flushed, s.resets = s.m.CloneModel(), make(map[int]bool)
}

// batch has appends and reads of one zone in flight at once, on all lanes.
func (s *script) batch(zn int, sizes []uint64) {
	s.t.Helper()
	s.steps++
	start := s.m.Zones[zn].Start
	perLane := make([][]*disk.Request, scriptLanes)
	var rs []*disk.Request
	for i, n := range sizes {
		w := s.lanes[i%scriptLanes]
		w.Cases++
		r := w.NewRequest(disk.OpAppend, start, n)
		rs = append(rs, r)
		perLane[i%scriptLanes] = append(perLane[i%scriptLanes], r, w.NewRequest(disk.OpRead, start, 4096))
	}
	for i, w := range s.lanes {
		w.Submit(perLane[i]...)
	}
	for i, w := range s.lanes {
		for range perLane[i] {
			w.Wait()
		}
	}
	// In the order of the addresses that they were given, those that landed are
	// what the model does, and those that did not still would not.
	slices.SortStableFunc(rs, func(a, b *disk.Request) int {
		if (a.Err == nil) != (b.Err == nil) {
			if a.Err == nil {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.AppendSector, b.AppendSector)
	})
	for _, r := range rs {
		if _, at, err := s.m.Apply(r); !errors.Is(r.Err, err) || err == nil && at != r.AppendSector {
			s.Errorf("append of %d bytes to zone %d among others: got sector %d, %v; want %d, %v", r.Bytes, zn, r.AppendSector, r.Err, at, err)
		}
	}
	s.lanes[0].CompareZones()
	s.lanes[0].CompareData(zn)
}

// restart closes the disk cleanly and opens it again.
func (s *script) restart() {
	s.t.Helper()
	s.steps++
	s.dropLanes()
	imagetest.CloseDisk(s.t, s.disk, s.path)
	s.flush()
	s.open()
	s.lanes[0].CompareAll()
}

// kill ends the daemon with kill -9 and opens the disk again.
func (s *script) kill() {
	s.t.Helper()
	s.steps++
	s.dropLanes()
	kill(s.t, s.disk, s.fs)
	imagetest.WantClean(s.t, s.path)
	s.open()
	s.lanes[0].CompareAll()
	// To open an image after a kill makes everything durable.
	s.flush()
}

// cut cuts the power and opens the disk again.
func (s *script) cut() {
	s.t.Helper()
	s.steps++
	s.dropLanes()
	kill(s.t, s.disk, s.fs)
	imagetest.CutPower(s.t, s.path)
	imagetest.WantClean(s.t, s.path)
	s.disk, s.fs = openFaulty(s.t, s.path)
	m := s.flushed
	m.Opened = nil
	for i := range m.Zones {
		z, now := &m.Zones[i], &s.m.Zones[i]
		if z.State == zonemodel.NotWP {
			// Data of conventional zones stays in the cache: this power cut
			// forgets zone states, and no data.
			z.TakeData(now)
			continue
		}
		if s.resets[i] && (now.WP > now.Start || s.disk.ReportZone(i).State == zone.Empty) {
			z.State, z.WP = zonemodel.Empty, z.Start
			z.Erase()
		}
		switch {
		case z.State.IsOpen() && z.WP == z.Start:
			z.State = zonemodel.Empty
		case z.State.IsOpen():
			z.State = zonemodel.Closed
		}
	}
	s.m = m
	for range scriptLanes {
		s.lanes = append(s.lanes, disktest.NewTwin(s, s.disk, s.m))
	}
	s.lanes[0].CompareAll()
	s.flush()
}
