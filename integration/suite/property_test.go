package suite

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/virtio/driver"
)

// drawSetup draws a small disk that can be.
func drawSetup(t *rapid.T) Setup {
	var s Setup
	s.BlockBytes = rapid.SampledFrom([]uint32{512, 4096}).Draw(t, "block bytes")
	block := uint64(s.BlockBytes) / zonemodel.SectorBytes
	s.ZoneSectors = rapid.SampledFrom([]uint64{8, 16, 64, 128}).Draw(t, "zone sectors")
	blocks := s.ZoneSectors / block
	s.ZoneCapacitySectors = rapid.Uint64Range(1, blocks).Draw(t, "capacity blocks") * block
	zones := rapid.Uint64Range(2, 7).Draw(t, "zones")
	s.CapacitySectors = (zones-1)*s.ZoneSectors + rapid.Uint64Range(1, blocks).Draw(t, "last zone blocks")*block
	s.ConventionalZones = rapid.IntRange(0, min(2, int(zones)-1)).Draw(t, "conventional")
	s.MaxActive = rapid.Uint32Range(0, 3).Draw(t, "max active")
	most := uint32(3)
	if s.MaxActive != 0 {
		most = s.MaxActive
	}
	s.MaxOpen = rapid.Uint32Range(0, most).Draw(t, "max open")
	s.MaxAppendSectors = uint32(rapid.Uint64Range(1, s.ZoneCapacitySectors/block).Draw(t, "append limit blocks") * block)
	s.Queues = rapid.IntRange(1, 4).Draw(t, "queues")
	s.Without = rapid.SampledFrom([]uint64{0, driver.FeatureEventIdx, driver.FeatureIndirectDesc, driver.BlkFlush /* write-through */}).Draw(t, "without")
	s.Packed = rapid.Bool().Draw(t, "packed")
	return s
}

// A draw draws steps for a session.
type draw struct {
	*Session
	hunt   *hunt
	script *Script
	focus  int // the zone that all requests are about; below 0: any
}

// A hunt is a search for scripts that fail on disks of a target.
type hunt struct {
	target            Target
	found             *Script // the first one
	requests, batches int
	widest            int
}

// batchMost bounds what is in flight at once, so that orders can be searched.
const batchMost = 6

func (d *draw) zone(t *rapid.T) int {
	if d.focus >= 0 {
		return d.focus
	}
	// Of a disk with many, the first ones of each kind and the last.
	n := len(d.Model.Zones)
	i := rapid.IntRange(0, min(n, 8)-1).Draw(t, "zone")
	if n > 8 && i > 1 {
		i = []int{d.Model.ConventionalZones, d.Model.ConventionalZones + 1, d.Model.ConventionalZones + 2, d.Model.ConventionalZones + 3, n - 2, n - 1}[i-2]
	}
	return min(i, n-1)
}

// op draws a request.
func (d *draw) op(t *rapid.T) *Op {
	m := d.Model
	z := m.Zones[d.zone(t)]
	block := uint64(m.BlockBytes) / zonemodel.SectorBytes
	few := rapid.OneOf(rapid.Uint64Range(0, 4), rapid.Uint64Range(0, min(m.ZoneSectors/block+1, 64)))
	bytes := func() uint64 {
		if rapid.IntRange(0, 19).Draw(t, "odd") == 19 {
			return rapid.Uint64Range(0, uint64(d.buffer)).Draw(t, "bytes")
		}
		return min(few.Draw(t, "blocks")*uint64(m.BlockBytes), uint64(d.buffer))
	}
	o := &Op{Queue: rapid.IntRange(0, d.Queues-1).Draw(t, "queue"), Sector: z.Start}
	o.Type = rapid.SampledFrom([]uint32{
		driver.TypeZoneAppend, driver.TypeZoneAppend, driver.TypeZoneAppend, driver.TypeZoneAppend,
		driver.TypeOut, driver.TypeOut, driver.TypeOut, driver.TypeIn, driver.TypeZoneReport, driver.TypeFlush,
		driver.TypeZoneOpen, driver.TypeZoneClose, driver.TypeZoneFinish, driver.TypeZoneReset, driver.TypeZoneReset,
		driver.TypeSecureErase, driver.TypeZoneResetAll, driver.TypeGetID,
	}).Draw(t, "type")
	switch o.Type {
	case driver.TypeZoneAppend:
		o.Bytes = bytes()
	case driver.TypeOut:
		o.Bytes = bytes()
		o.Sector = z.WP // mostly where it has to be, or where the next one has to be
		if z.Conventional || rapid.IntRange(0, 3).Draw(t, "elsewhere") == 3 {
			o.Sector += few.Draw(t, "from") * block
		}
	case driver.TypeIn:
		o.Bytes = bytes()
		o.Sector += few.Draw(t, "from") * block
	case driver.TypeZoneReport:
		o.Bytes = driver.ReportHeaderBytes + rapid.Uint64Range(0, 9).Draw(t, "room")*driver.ZoneDescriptorBytes
	case driver.TypeSecureErase:
		o.Bytes = (z.End - z.Start) * zonemodel.SectorBytes
	case driver.TypeGetID:
		o.Bytes = driver.IDBytes
	}
	return o
}

// batch draws requests that may be in flight at once.
func (d *draw) batch(t *rapid.T) Step {
	var s Step
	if rapid.Bool().Draw(t, "one zone") {
		d.focus = d.zone(t)
		defer func() { d.focus = -1 }()
	}
	for range rapid.IntRange(1, batchMost).Draw(t, "requests") {
		o := d.op(t)
		if !d.clashes(s.Ops, o) {
			s.Ops = append(s.Ops, o)
		}
	}
	return s
}

// clashes says whether the specification leaves open what comes of o together with
// the others: two writes to one place of a conventional zone; and whether there
// would be two resets of all zones, which is too much to search.
func (d *draw) clashes(others []*Op, o *Op) bool {
	end := func(o *Op) uint64 { return o.Sector + (o.Bytes+zonemodel.SectorBytes-1)/zonemodel.SectorBytes }
	for _, other := range others {
		switch {
		case o.Type != other.Type:
		case o.Type == driver.TypeZoneResetAll:
			return true
		case o.Type == driver.TypeOut && o.Sector < end(other) && other.Sector < end(o) &&
			o.Sector < d.Model.CapacitySectors && d.Model.Zones[o.Sector/d.Model.ZoneSectors].Conventional:
			return true
		}
	}
	return false
}

// state draws a zone to put out of service, or back.
func (d *draw) state(t *rapid.T) Step {
	i := d.zone(t)
	z := &d.Model.Zones[i]
	s := Step{Zone: i}
	switch {
	case z.State != zonemodel.ReadOnly && z.State != zonemodel.Offline:
		s.To = rapid.SampledFrom([]zonemodel.State{zonemodel.ReadOnly, zonemodel.Offline}).Draw(t, "state")
	case z.Conventional:
		s.To = zonemodel.NotWP
	default:
		s.To = zonemodel.Empty
	}
	return s
}

// do does a step.
func (d *draw) do(t *rapid.T, s Step) {
	d.script.Steps = append(d.script.Steps, s)
	d.want(t, d.Step(s))
}

// want fails if something is wrong, and keeps the script of the first time.
func (d *draw) want(t *rapid.T, err error) {
	if err == nil {
		return
	}
	if d.hunt.found == nil {
		d.hunt.found = &Script{d.script.Setup, slices.Clone(d.script.Steps)}
	}
	t.Fatalf("%v\nscript:\n%v", err, d.script)
}

// play plays a random script.
func (h *hunt) play(t *rapid.T) {
	setup := Setup{Queues: 4}
	if !elsewhere() {
		setup = drawSetup(t)
	}
	served, err := h.target(setup)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(served, setup)
	if err != nil {
		t.Fatal(errors.Join(err, served.Close()))
	}
	if setup.ZoneSectors == 0 {
		setup.Geometry, setup.Queues = s.Model.Geometry, s.Queues
	}
	d := &draw{s, h, &Script{Setup: setup}, -1}
	closed := false
	defer func() { // so that shrinking can go on after a failure
		if !closed {
			_ = s.Close()
		}
	}()
	actions := map[string]func(*rapid.T){
		"batch":         func(t *rapid.T) { d.do(t, d.batch(t)) },
		"another batch": func(t *rapid.T) { d.do(t, d.batch(t)) },
		"one request":   func(t *rapid.T) { d.do(t, Step{Ops: []*Op{d.op(t)}}) },
	}
	if served.SetState != nil {
		actions["state"] = func(t *rapid.T) {
			if rapid.IntRange(0, 4).Draw(t, "now") == 4 {
				d.do(t, d.state(t))
			}
		}
	}
	t.Repeat(actions)
	d.want(t, errors.Join(s.Verify(), s.Compare()))
	closed = true
	d.want(t, s.Close())
	h.requests += s.Cases
	h.batches += s.Batches
	h.widest = max(h.widest, s.Widest)
}

// run plays random scripts until one fails, and returns that one, shrunk, and what
// was said. Without a failure it returns nil.
func (h *hunt) run(t *testing.T) (*Script, string) {
	t.Helper()
	q, done := &quiet{TB: t}, make(chan struct{})
	go func() { // its FailNow ends the goroutine
		defer close(done)
		rapid.Check(q, h.play)
	}()
	<-done
	switch {
	case !q.failed:
		return nil, ""
	case h.found == nil:
		t.Fatal(q.said.String())
	}
	return h.found.Shrink(func(c *Script) bool { return c.Diverges(h.target, 3) }), q.said.String()
}

// A quiet TB notes a failure and does not fail.
type quiet struct {
	testing.TB
	failed bool
	said   strings.Builder
}

func (q *quiet) Helper()                      {}
func (q *quiet) Name() string                 { return "quiet" }
func (q *quiet) Logf(f string, args ...any)   { fmt.Fprintf(&q.said, f+"\n", args...) }
func (q *quiet) Log(args ...any)              { fmt.Fprintln(&q.said, args...) }
func (q *quiet) Errorf(f string, args ...any) { q.Logf(f, args...); q.Fail() }
func (q *quiet) Error(args ...any)            { q.Log(args...); q.Fail() }
func (q *quiet) Fatalf(f string, args ...any) { q.Logf(f, args...); q.FailNow() }
func (q *quiet) Fatal(args ...any)            { q.Log(args...); q.FailNow() }
func (q *quiet) Fail()                        { q.failed = true }
func (q *quiet) Failed() bool                 { return q.failed }
func (q *quiet) FailNow() {
	q.failed = true
	runtime.Goexit()
}

// leastRandom is how many requests TestRandom sends at least.
const leastRandom = 100

// Random requests on several queues at once: some order of them explains what the
// disk has answered and what it is like then. What has no order shrinks to a
// script.
func TestRandom(t *testing.T) { random(t, target()) }

// The same as a PCI function over vfio-user.
func TestRandomOverVFIOUser(t *testing.T) {
	if elsewhere() {
		return // what is served there has the door that it has
	}
	random(t, overVFIO)
}

func random(t *testing.T, target Target) {
	t.Helper()
	h := &hunt{target: target}
	// 100 disks a round, more with -rapid.checks; with one or two of them, for slow
	// disks, a round may have drawn no request at all.
	for round := 0; round < *roundsFlag || h.requests < leastRandom; round++ {
		if c, said := h.run(t); c != nil {
			t.Fatalf("%s\nshrunk, for -script:\n%v", said, c)
		}
	}
	t.Logf("%d requests in %d batches, for one of which %d states were searched", h.requests, h.batches, h.widest)
}

// Disks that lie are found out, what they did shrinks to a few lines, and these
// lines show it again, and nothing on an honest disk.
func TestLiesAreFound(t *testing.T) {
	for name, tamper := range map[string]func(*Op){
		"an append behind the first block of its zone is told one sector short": func(o *Op) {
			if o.Type == driver.TypeZoneAppend && o.status == zonemodel.OK && o.at > o.Sector {
				o.at--
			}
		},
		"no zone can be closed": func(o *Op) {
			if o.Type == driver.TypeZoneClose {
				o.status = zonemodel.InvalidCmd
			}
		},
		"a limit is told for an invalid request": func(o *Op) {
			if o.Type == driver.TypeZoneOpen && o.status == zonemodel.InvalidCmd {
				o.status = zonemodel.OpenResource
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			liar := func(s Setup) (*Served, error) {
				served, err := ownDaemon(s)
				if err == nil {
					served.tamper = tamper
				}
				return served, err
			}
			// What comes out can hang on who came first in a batch. One of a few
			// hunts brings a script that does not, or not much.
			var again *Script
			var left string
			for range 10 {
				c, said := (&hunt{target: liar}).run(t)
				if c == nil {
					t.Fatal("nothing was found")
				}
				requests := 0
				for _, s := range c.Steps {
					requests += len(s.Ops)
				}
				script, err := ParseScript(c.String())
				if err != nil {
					t.Fatal(err)
				}
				if requests <= 4 && script.Diverges(liar, 30) {
					again = script
					break
				}
				left = fmt.Sprintf("%d requests in %d steps:\n%v\nof\n%s", requests, len(c.Steps), c, said)
			}
			if again == nil {
				t.Fatalf("no hunt ended with a short script that shows it again; the last one had %s", left)
			}
			if err := again.Play(ownDaemon); err != nil {
				t.Errorf("%v, on an honest disk, from\n%v", err, again)
			}
			t.Logf("%v", again)
		})
	}
}
