package suite

import (
	"fmt"
	"slices"

	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A Tally is what a run of the table has done.
type Tally struct {
	Cases    int            // requests whose outcome was compared
	LeftOut  map[string]int // cases that this disk or target cannot have, by reason
	Requests int            // with those that brought zones into their states
}

func (t *Tally) String() string {
	s := fmt.Sprintf("%d cases, %d requests", t.Cases, t.Requests)
	for why, n := range t.LeftOut {
		s += fmt.Sprintf("; %d cases left out: %s", n, why)
	}
	return s
}

// Add sums tallies up.
func (t *Tally) Add(o *Tally) {
	t.Cases += o.Cases
	t.Requests += o.Requests
	for why, n := range o.LeftOut {
		t.leaveOut(why, n)
	}
}

func (t *Tally) leaveOut(why string, n int) {
	if t.LeftOut == nil {
		t.LeftOut = make(map[string]int)
	}
	t.LeftOut[why] += n
}

// A condition is a state of a zone and the way there.
type condition struct {
	name  string
	state zonemodel.State
	// steps bring an empty zone there: driver.TypeOut stands for a write of some
	// of its capacity, or of all of it where the zone is to be full.
	steps []uint32
}

// conditions are what the table has for sequential zones.
var conditions = []condition{
	{"empty", zonemodel.Empty, nil},
	{"implicitly open", zonemodel.ImpOpen, []uint32{driver.TypeOut}},
	{"explicitly open, nothing written", zonemodel.ExpOpen, []uint32{driver.TypeZoneOpen}},
	{"explicitly open", zonemodel.ExpOpen, []uint32{driver.TypeZoneOpen, driver.TypeOut}},
	{"closed", zonemodel.Closed, []uint32{driver.TypeOut, driver.TypeZoneClose}},
	{"full by writes", zonemodel.Full, []uint32{driver.TypeOut}},
	{"full by finish", zonemodel.Full, []uint32{driver.TypeOut, driver.TypeZoneFinish}},
	{"full by finish, nothing written", zonemodel.Full, []uint32{driver.TypeZoneFinish}},
	{"read-only", zonemodel.ReadOnly, []uint32{driver.TypeOut}},
	{"read-only, nothing written", zonemodel.ReadOnly, nil},
	{"offline", zonemodel.Offline, []uint32{driver.TypeOut}},
}

const (
	noStates = "the target cannot put zones out of service"
	tooLarge = "larger than the suite's requests"
)

// A table is a run of the table over one disk.
type table struct {
	*Session
	tb    TB
	tally Tally
	turn  int // of the queues
	// thinned counts the requests that thin has looked at.
	thinned int
}

// RunTable sends every request to zones in every state with every kind of
// argument. It ends with the first case that goes wrong.
func RunTable(tb TB, target Target, setup Setup) *Tally {
	tb.Helper()
	served, err := target(setup)
	if err != nil {
		tb.Fatalf("%v", err)
		return nil
	}
	s, err := Open(served, setup)
	if err != nil {
		tb.Fatalf("%v; %v", err, served.Close())
		return nil
	}
	s.Patient = true
	t := &table{Session: s, tb: tb}
	if err := t.run(); err != nil {
		tb.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		tb.Errorf("%v", err)
	}
	t.tally.Requests = s.Cases
	return &t.tally
}

func (t *table) run() error {
	zones := len(t.Model.Zones)
	first := t.Model.ConventionalZones
	if t.Model.ReadOnly {
		return t.frozen()
	}
	// One among others, the one before the last, whose requests can span into a
	// smaller one, and the last; as far as there are so many.
	sequential := []int{min(first+1, zones-1), zones - 2, zones - 1}
	for n, i := range sequential {
		if n > 0 && i <= sequential[n-1] {
			continue
		}
		for c := range conditions {
			if err := t.zone(i, &conditions[c], n > 0); err != nil {
				return fmt.Errorf("zone %d, %s: %w", i, conditions[c].name, err)
			}
		}
	}
	if first > 0 {
		for _, state := range []zonemodel.State{zonemodel.NotWP, zonemodel.ReadOnly, zonemodel.Offline} {
			if err := t.conventional(first-1, state); err != nil {
				return fmt.Errorf("conventional zone %d, %v: %w", first-1, state, err)
			}
		}
	}
	if err := t.pressure(); err != nil {
		return err
	}
	return t.settleUp()
}

// frozen is the table for a read-only disk, whose zones are what they are.
func (t *table) frozen() error {
	nothing := func() error { return nil }
	for i := range t.Model.Zones {
		if i >= 16 && i < len(t.Model.Zones)-2 {
			continue // of a disk with many zones they are more of the same
		}
		if err := t.each(t.arguments(i, i != t.Model.ConventionalZones), nothing, nothing); err != nil {
			return fmt.Errorf("zone %d of a read-only disk, %v: %w", i, t.Model.Zones[i].State, err)
		}
	}
	return t.settleUp()
}

// settleUp looks at all that was put off.
func (t *table) settleUp() error {
	if err := t.Verify(); err != nil {
		return fmt.Errorf("after requests that were refused: %w", err)
	}
	return t.Compare()
}

// zone is the table for zone i under a condition.
func (t *table) zone(i int, c *condition, short bool) error {
	ops := t.thin(t.arguments(i, short))
	if t.served.SetState == nil && (c.state == zonemodel.ReadOnly || c.state == zonemodel.Offline) {
		t.tally.leaveOut(noStates, len(ops))
		return nil
	}
	if c.name == "full by writes" && t.Model.Zones[i].Writable-t.Model.Zones[i].Start > readLimit {
		t.tally.leaveOut(tooLarge, len(ops))
		return nil
	}
	return t.each(ops, func() error { return t.prepare(i, c) }, func() error { return t.restore(i) })
}

// thin leaves out most reads, writes, appends and reports where that is wanted.
func (t *table) thin(ops []Op) []Op {
	if t.served.OneIn < 2 {
		return ops
	}
	before := len(ops)
	ops = slices.DeleteFunc(ops, func(o Op) bool {
		t.thinned++
		many := o.Type == driver.TypeIn || o.Type == driver.TypeOut || o.Type == driver.TypeZoneAppend || o.Type == driver.TypeZoneReport
		return many && t.thinned%t.served.OneIn != 0
	})
	t.tally.leaveOut("one in a few is enough here", before-len(ops))
	return ops
}

// each sends the requests one by one, and puts the zone back whenever one has
// changed anything.
func (t *table) each(ops []Op, prepare, restore func() error) error {
	dirty := true
	for n := range ops {
		o := ops[n]
		if o.room() > uint64(t.buffer) {
			t.tally.leaveOut(tooLarge, 1)
			continue
		}
		if dirty {
			if err := prepare(); err != nil {
				return fmt.Errorf("on the way there: %w", err)
			}
		}
		before := t.Model.Key()
		if err := t.one(&o); err != nil {
			return err
		}
		t.tally.Cases++
		if dirty = t.Model.Key() != before; dirty {
			if err := t.Compare(); err != nil {
				return fmt.Errorf("after %v: %w", &o, err)
			}
		}
	}
	if err := t.settleUp(); err != nil {
		return err
	}
	return restore()
}

// one sends one request, on one queue after the other.
func (t *table) one(o *Op) error {
	t.turn++
	o.Queue = t.turn % t.Queues
	return t.Batch(o)
}

// some is how much is written where not all is: three blocks of 4096 bytes, if
// that is not the whole zone.
func (t *table) some(i int) uint64 {
	z := &t.Model.Zones[i]
	return min(24, (z.Writable-z.Start)/2/t.block()*t.block())
}

// block is the block size in sectors.
func (t *table) block() uint64 { return uint64(t.Model.BlockBytes) / zonemodel.SectorBytes }

// prepare brings zone i there.
func (t *table) prepare(i int, c *condition) error {
	if err := t.restore(i); err != nil {
		return err
	}
	z := &t.Model.Zones[i]
	if err := t.one(&Op{Type: driver.TypeZoneReset, Sector: z.Start}); err != nil {
		return err
	}
	for n, typ := range c.steps {
		amount := t.some(i)
		if c.state == zonemodel.Full && len(c.steps) == 1 {
			amount = z.Writable - z.Start
		}
		if typ != driver.TypeOut {
			amount = 0
		}
		for done := uint64(0); n >= 0; {
			part := min(amount-done, uint64(t.buffer)/zonemodel.SectorBytes/t.block()*t.block())
			if err := t.one(&Op{Type: typ, Sector: z.Start + done, Bytes: part * zonemodel.SectorBytes}); err != nil {
				return err
			}
			if done += part; done == amount {
				break
			}
			z = &t.Model.Zones[i]
		}
	}
	if c.state == zonemodel.ReadOnly || c.state == zonemodel.Offline {
		if err := t.Put(i, c.state); err != nil {
			return err
		}
	}
	if got := t.Model.Zones[i].State; got != c.state {
		return fmt.Errorf("zone %d is %v after what should make it %v", i, got, c.state)
	}
	return nil
}

// restore takes zone i back into service.
func (t *table) restore(i int) error {
	switch t.Model.Zones[i].State {
	case zonemodel.ReadOnly, zonemodel.Offline:
		return t.Put(i, zonemodel.Empty)
	}
	return nil
}

// conventional is the table for a conventional zone.
func (t *table) conventional(i int, state zonemodel.State) error {
	ops := t.thin(t.arguments(i, false))
	if state != zonemodel.NotWP && t.served.SetState == nil {
		t.tally.leaveOut(noStates, len(ops))
		return nil
	}
	set := func(to zonemodel.State) error {
		if t.Model.Zones[i].State == to {
			return nil
		}
		return t.Put(i, to)
	}
	return t.each(ops, func() error { return set(state) }, func() error { return set(zonemodel.NotWP) })
}
