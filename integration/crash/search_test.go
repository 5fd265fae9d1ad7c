package crash

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/virtio/driver"
)

// The search finds an order in which the zone can have carried its requests
// out, each between its being offered and its answer, so that every answer was
// lawful and the zone ends as it was found (linearizability, after Wing and
// Gong; the history is walked once, with all that the zone can be at each
// moment, after Lowe). Requests without an answer may have been carried out at
// any time after they were offered, or never.

// A tile is a place in the zone that was given to a request since it was last
// reset; a nil op is what stood there at the beginning.
type tile struct {
	op    *op
	at, n uint64
	below *tile
}

// A branch is one way in which things can have gone so far.
type branch struct {
	key
	tiles *tile // the topmost
}

// key is what tells two branches apart.
type key struct {
	model
	done uint64 // of the pending requests, by slot: carried out
	sum  uint64 // of the requests whose data stands in the zone
}

type search struct {
	spec    zoneSpec
	before  *zoneView
	after   *zoneView
	pending [64]*op // called and not yet answered
	budget  int     // branches that may still be looked at
}

// errUndecided is a history with too many explanations to try.
var errUndecided = errors.New("too many ways to try")

// errNoOrder is a history that no zone has.
var errNoOrder = errors.New("no order of the requests explains it")

// explain returns nil when the zone can have gone from before to after by ops,
// which are in the order of their calls.
func explain(spec zoneSpec, before, after *zoneView, ops []*op) error {
	s := &search{spec: spec, before: before, after: after, budget: 40_000}
	start := branch{key: key{model: model{before.state, before.written}}}
	if before.written > 0 {
		start.tiles = &tile{at: 0, n: before.written}
	}
	branches := []branch{start}
	for _, e := range events(ops) {
		if e.isCall {
			slot := slices.Index(s.pending[:], nil)
			if slot < 0 {
				return errors.New("more requests in flight than the oracle has room for")
			}
			s.pending[slot] = e.op
			continue
		}
		slot := slices.Index(s.pending[:], e.op)
		if branches = s.until(branches, slot); len(branches) == 0 {
			if s.budget == 0 {
				return errUndecided
			}
			return fmt.Errorf("%w: there is no way to answer %v\n%s", errNoOrder, e.op, recent(ops, e.op))
		}
		s.pending[slot] = nil
	}
	var why []string
	for _, b := range s.closure(branches) {
		what := s.differs(&b)
		if what == "" {
			return nil
		}
		if !slices.Contains(why, what) && len(why) < 6 {
			why = append(why, what)
		}
	}
	if s.budget == 0 {
		return errUndecided
	}
	return fmt.Errorf("%w; in one, %s\n%s", errNoOrder, strings.Join(why, "; in another, "), recent(ops, nil))
}

// event is a call or an answer.
type event struct {
	at     int
	isCall bool
	op     *op
}

func events(ops []*op) []event {
	var all []event
	for _, o := range ops {
		all = append(all, event{o.call, true, o})
		if o.answered() {
			all = append(all, event{o.ret, false, o})
		}
	}
	slices.SortFunc(all, func(a, b event) int { return a.at - b.at })
	return all
}

// recent is the end of the history, and what else was in flight then, for people.
func recent(ops []*op, last *op) string {
	var b strings.Builder
	stop := never
	if last != nil {
		stop = last.ret
	}
	ops = slices.DeleteFunc(slices.Clone(ops), func(o *op) bool { return o.call >= stop })
	for i, o := range ops {
		if i >= len(ops)-24 || o.ret >= stop {
			b.WriteString("\t" + o.String() + "\n")
		}
	}
	return b.String()
}

// until carries pending requests out until that of slot is among them.
func (s *search) until(from []branch, slot int) (out []branch) {
	bit := uint64(1) << slot
	seen, kept := map[key]bool{}, map[key]bool{}
	stack := from
	for len(stack) > 0 && s.budget > 0 {
		s.budget--
		b := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		s.settle(&b)
		if seen[b.key] {
			continue
		}
		seen[b.key] = true
		if b.done&bit != 0 {
			b.done &^= bit
			if !kept[b.key] {
				kept[b.key] = true
				out = append(out, b)
			}
			continue
		}
		stack = append(stack, s.steps(&b)...)
	}
	return out
}

// closure is every branch that carrying out pending requests leads to.
func (s *search) closure(from []branch) (out []branch) {
	seen := map[key]bool{}
	for stack := from; len(stack) > 0 && s.budget > 0; {
		s.budget--
		b := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if s.settle(&b); seen[b.key] {
			continue
		}
		seen[b.key] = true
		out = append(out, b)
		stack = append(stack, s.steps(&b)...)
	}
	return out
}

// settle carries out what changes nothing as soon as its answer is lawful:
// that can only be of use.
func (s *search) settle(b *branch) {
	for slot, o := range s.pending {
		if o == nil || b.done>>slot&1 != 0 || !o.answered() || o.status == driver.StatusOK {
			continue
		}
		if _, lawful, _ := b.try(o, &s.spec); lawful {
			b.done |= 1 << slot
		}
	}
}

// steps are the branches that one pending request leads to.
func (s *search) steps(b *branch) (out []branch) {
	type kind struct {
		typ uint32
		n   uint64
	}
	var alike []kind // without answer and trace: one of each kind is enough
	useful := s.hiddenUseful(b)
	for slot, o := range s.pending {
		if o == nil || b.done>>slot&1 != 0 {
			continue
		}
		if !o.answered() && !o.visible() {
			k := kind{o.typ, o.n}
			if o.hasData() && !useful || o.typ != driver.TypeOut && slices.Contains(alike, k) {
				continue
			}
			alike = append(alike, k)
		}
		after, lawful, effect := b.try(o, &s.spec)
		if !lawful || !effect {
			continue
		}
		next := branch{key: key{model: after, done: b.done | 1<<slot, sum: b.sum}, tiles: b.tiles}
		switch o.typ {
		case driver.TypeOut, driver.TypeZoneAppend:
			next.tiles = &tile{op: o, at: b.next, n: o.n, below: b.tiles}
			if o.answered() || o.visible() {
				next.sum += (o.id ^ o.id>>31) * 0x9e3779b97f4a7c15
			}
		case driver.TypeZoneReset, driver.TypeZoneResetAll, driver.TypeSecureErase:
			next.tiles, next.sum = nil, 1
		}
		out = append(out, next)
	}
	return out
}

// differs says in which way the zone, if things went as in b, would be other
// than it is, "" if in none.
func (s *search) differs(b *branch) string {
	told, landed, whole := uint64(0), b.tiles == nil, true
	for t := b.tiles; t != nil; t = t.below {
		switch end := t.at + t.n; {
		case t.op == nil || t.op.answered():
			told = max(told, end)
		default:
			whole = whole && t.op.whole()
			landed = landed || t.op.whole() && end == s.after.written
		}
	}
	w := s.after.written
	if w != told && (w < told || !landed) {
		return fmt.Sprintf("%d sectors are promised, but %d written, which is no end of a request that has landed", told, w)
	}
	state := b.state
	switch {
	case state == driver.ZoneFull:
		if !whole || w != b.next {
			return fmt.Sprintf("it was finished after all of %d sectors were written, but %d are", b.next, w)
		}
	case w == s.spec.capacity:
		state = driver.ZoneFull
	case w == 0 && state != driver.ZoneExpOpen:
		state = driver.ZoneEmpty
	}
	// Closed by the device.
	closed := s.spec.maxOpen && state == driver.ZoneImpOpen && s.after.state == driver.ZoneClosed
	if state != s.after.state && !closed {
		return fmt.Sprintf("it is %s", rig.StateNames[state])
	}
	return s.differsAt(b, w)
}

// differsAt looks at every sector.
func (s *search) differsAt(b *branch, written uint64) string {
	covered := uint64(0)
	for t := b.tiles; t != nil; t = t.below {
		for i := range t.n {
			at := t.at + i
			got := s.after.sectors[at]
			var want rig.Stamp
			switch {
			case at >= written:
			case t.op == nil:
				want = s.before.sectors[at]
			case t.op.answered() || t.op.visible() && got != rig.Stamp{}:
				want = rig.Stamp{ID: t.op.id, Index: i}
			}
			if got != want {
				return fmt.Sprintf("sector %d holds %v instead of %v", at, got, want)
			}
		}
		covered = max(covered, t.at+t.n)
	}
	for at := covered; at < uint64(len(s.after.sectors)); at++ {
		if got := s.after.sectors[at]; got != (rig.Stamp{}) {
			return fmt.Sprintf("sector %d, above the write pointer, holds %v", at, got)
		}
	}
	return ""
}

// hiddenUseful says whether a write that left no trace, and of which the zone
// shows nothing but that the next one stands further behind, can explain
// anything that is still to be explained: a place further on, or a refusal; or, when
// all answers are, that a zone which was closed is open again.
func (s *search) hiddenUseful(b *branch) bool {
	reopened := b.state == driver.ZoneClosed && s.after.state == driver.ZoneImpOpen
	for slot, o := range s.pending {
		if o == nil || b.done>>slot&1 != 0 {
			continue
		}
		reopened = reopened && !o.answered()
		if o.answered() && (o.status != driver.StatusOK || o.typ == driver.TypeZoneClose) ||
			o.hasData() && (o.answered() || o.visible()) && o.at > b.next {
			return true
		}
	}
	return reopened
}
