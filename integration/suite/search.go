package suite

import (
	"errors"
	"fmt"
	"slices"

	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/virtio/driver"
)

// The search tries orders of a batch's requests, on clones of the model, until
// one answers as the disk has (linearizability; with the states already tried
// remembered, after Lowe). Three things are not one step but several: a write that
// fills its zone, which stays open until it has ended; a reset of all zones, which
// goes from zone to zone; and a request that has another zone closed to make room,
// which may be any that is implicitly open.

// A step is a request, or one zone of a reset of all.
type step struct {
	op   *Op
	zone int // of a reset of all; else -1
}

type search struct {
	s      *Session
	steps  []step
	all    uint64
	table  []driver.Zone
	touch  []int // zones whose data is to be looked at, and the places there
	places map[int][]uint64
	seen   map[[2]uint64]bool
	read   map[int][]span
	budget int
	near   string // in what the last order that fits all answers differs
	err    error
}

// maxSteps is how many steps fit the search, and searchBudget how many states it
// looks at before it gives up.
const (
	maxSteps     = 64
	searchBudget = 200_000
)

// explain returns the model after the batch.
func (s *Session) explain(ops []*Op, table []driver.Zone) (*zonemodel.Model, error) {
	x := &search{s: s, table: table, seen: make(map[[2]uint64]bool), read: make(map[int][]span), budget: searchBudget}
	start := s.Model.Clone()
	for _, o := range ops {
		if o.Type != driver.TypeZoneResetAll || o.status != zonemodel.OK || len(ops) == 1 {
			x.steps = append(x.steps, step{o, -1})
			continue
		}
		for i := range start.Zones {
			z := &start.Zones[i]
			others := slices.ContainsFunc(ops, func(o *Op) bool {
				return o.Type != driver.TypeZoneResetAll && o.Sector >= z.Start && o.Sector < z.End
			})
			switch {
			case z.Conventional, z.State == zonemodel.ReadOnly, z.State == zonemodel.Offline:
			case z.State.IsActive(), others:
				x.steps = append(x.steps, step{o, i})
			default: // nobody can tell when
				start.ResetOne(i)
			}
		}
	}
	if len(x.steps) > maxSteps {
		return nil, fmt.Errorf("%d steps are more than a search has room for", len(x.steps))
	}
	x.all = 1<<len(x.steps) - 1
	x.touch, x.places = s.touched(ops), make(map[int][]uint64)
	for _, i := range x.touch {
		x.places[i] = s.places(nil, i, ops...)
	}
	after := x.from(start, 0)
	s.Widest = max(s.Widest, searchBudget-x.budget)
	switch {
	case x.err != nil:
		return nil, x.err
	case after != nil:
		return after, nil
	case x.budget <= 0:
		return nil, errors.New("the batch has too many orders to try: send fewer requests at once")
	}
	what := "no order of the requests explains the answers"
	if len(ops) == 1 {
		what = "wanted " + s.wanted(ops[0])
	}
	if x.near != "" {
		what += "; where one does, " + x.near
	}
	return nil, &Divergence{What: what}
}

// wanted is what the model has for a request that came alone.
func (s *Session) wanted(o *Op) string {
	out := s.Model.Clone().Do(o.request())
	if o.Type == driver.TypeZoneAppend && out.Status == zonemodel.OK {
		return fmt.Sprintf("%v at %d", out.Status, out.Sector)
	}
	if status, ok := s.aside(s.Model, o); ok {
		return status.String()
	}
	return out.Status.String()
}

// touched are the zones whose data may have changed, or was not to.
func (s *Session) touched(ops []*Op) (zones []int) {
	add := func(i int) {
		if !slices.Contains(zones, i) && i < len(s.Model.Zones) {
			zones = append(zones, i)
		}
	}
	for _, o := range ops {
		if s.Patient && o.status != zonemodel.OK {
			continue
		}
		switch o.Type {
		case driver.TypeOut, driver.TypeZoneAppend, driver.TypeZoneReset, driver.TypeZoneFinish,
			driver.TypeSecureErase, driver.TypeDiscard, driver.TypeWriteZeroes:
			if o.Sector < s.Model.CapacitySectors {
				last := (o.Sector + max(o.Bytes, 1)/zonemodel.SectorBytes) / s.Model.ZoneSectors
				for i := o.Sector / s.Model.ZoneSectors; i <= last && i < uint64(len(s.Model.Zones)); i++ {
					add(int(i))
				}
			}
		case driver.TypeZoneResetAll:
			for i := range s.Model.Zones {
				if s.Model.Zones[i].State != zonemodel.Empty {
					add(i)
				}
			}
		}
	}
	return zones
}

// from looks for an order of what is not in done, beginning with m, which it may
// change. It returns the model behind it.
func (x *search) from(m *zonemodel.Model, done uint64) *zonemodel.Model {
	done = x.free(m, done)
	key := [2]uint64{m.Key(), done}
	if x.seen[key] || x.budget <= 0 || x.err != nil {
		return nil
	}
	x.seen[key] = true
	x.budget--
	if done == x.all {
		c := m.Clone()
		if c.Settle(); x.ends(c) {
			return c
		}
	}
	for i := range m.Zones {
		c := m.Clone()
		if !c.SettleOne(i) {
			continue
		}
		if done == x.all {
			break // all of them at once, above
		}
		if after := x.from(c, done); after != nil {
			return after
		}
	}
	for n := range x.steps {
		if done>>n&1 != 0 {
			continue
		}
		for _, prefer := range append([]int{-1}, m.Opened...) {
			c := m.Clone()
			c.Prefer = prefer
			fits := x.take(c, &x.steps[n])
			if closed := c.Closed; fits && (prefer == -1 || closed == prefer) {
				c.Prefer = -1
				if after := x.from(c, done|1<<n); after != nil {
					return after
				}
			}
			if c.Closed < 0 {
				break // nothing had to be closed, so there is no choice
			}
		}
	}
	return nil
}

// free takes the steps that never change anything as soon as they fit: that can
// only be of use.
func (x *search) free(m *zonemodel.Model, done uint64) uint64 {
	for n := range x.steps {
		if done>>n&1 == 0 && x.steps[n].idle() && x.take(m.Clone(), &x.steps[n]) {
			done |= 1 << n
		}
	}
	return done
}

// idle says whether the step, with its outcome, changes nothing.
func (st *step) idle() bool {
	switch st.op.Type {
	case driver.TypeIn, driver.TypeFlush, driver.TypeGetID, driver.TypeZoneReport:
		return true
	}
	return st.op.status != zonemodel.OK
}

// take carries a step out, and says whether the disk has answered like that.
func (x *search) take(m *zonemodel.Model, st *step) bool {
	o := st.op
	if st.zone >= 0 {
		m.Closed = -1
		m.ResetOne(st.zone)
		return true
	}
	if status, ok := x.s.aside(m, o); ok {
		m.Closed = -1
		return status == o.status
	}
	out := m.Admit(o.request())
	return out.Status == o.status && (o.Type != driver.TypeZoneAppend || out.Status != zonemodel.OK || out.Sector == o.at)
}

// aside is the answer to a request that is not the model's business.
func (s *Session) aside(m *zonemodel.Model, o *Op) (zonemodel.Status, bool) {
	switch o.Type {
	case driver.TypeZoneReport:
		status, _, _ := m.Report(o.Sector, o.Bytes)
		return status, true
	case driver.TypeGetID:
		return zonemodel.OK, o.Bytes == driver.IDBytes
	case driver.TypeSecureErase:
		// "if any unknown flag is set"
		return zonemodel.Unsupp, o.Flags&^1 != 0
	}
	return 0, false
}

// request is the request as the model has it.
func (o *Op) request() zonemodel.Request {
	return zonemodel.Request{Type: o.Type, Sector: o.Sector, Bytes: o.Bytes, Data: o.wrote}
}

// ends says whether the disk is as m is now.
func (x *search) ends(m *zonemodel.Model) bool {
	for i := range x.table {
		if !same(m, i, &x.table[i]) {
			x.near = fmt.Sprintf("zone %d is %+v, not %+v", i, m.Descriptor(i), x.table[i])
			return false
		}
	}
	for _, i := range x.touch {
		err := x.s.verifyZone(m, i, x.places[i], x.read)
		var d *Divergence
		switch {
		case errors.As(err, &d):
			x.near = d.What
			return false
		case err != nil:
			x.err = err
			return false
		}
	}
	return true
}
