package disk

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/iovec"
)

// MaxFaults is how many faults a disk can have at a time, so that no one who may
// add some can fill the daemon's memory with them.
const MaxFaults = 1000

// Faults are the faults of one disk. Any goroutine may use it at any time. While
// there are none a request pays one atomic load for it.
type Faults struct {
	Info   Info
	Refuse string // why this disk takes none; empty where it does

	// live are the faults that can still strike, nil when there are none. The
	// list is never changed, but replaced.
	live atomic.Pointer[[]*armed]

	mu   sync.Mutex // guards what follows
	all  []*armed   // in the order in which they came, spent ones too
	last uint64     // the ID given last
	held map[*Request]*heldAnswer
}

// armed is a fault at work.
type armed struct {
	Fault
	id     uint64
	ops    OpSet
	first  uint64 // sectors that it strikes, inclusive
	last   uint64
	struck atomic.Uint64
	times  atomic.Uint32 // strikes left, when Times is not 0
	room   atomic.Uint64 // FaultFull: bytes left
	gone   bool          // cleared; guarded by Faults.mu
}

// An Outcome is what faults do to one request. It is made for those only that are
// struck.
type Outcome struct {
	Err  error  // what it ends with; nil: it does not fail
	Good uint64 // sectors that land all the same
	late *armed // whose delay the answer has; nil: it is not held back
}

// A heldAnswer is the answer to a request that is held back.
type heldAnswer struct {
	by    *armed
	timer *time.Timer
}

// FaultStatus is one fault of a disk, as it is at the moment.
type FaultStatus struct {
	ID     uint64 `json:"id"`
	Fault  Fault  `json:"fault"`
	Struck uint64 `json:"struck"` // how many requests it has struck
	// Spent says that it strikes no more: it has struck as often as it should.
	Spent bool `json:"spent"`
}

// Init says what the disk is like that the faults are for. It is called before any other
// method.
func (s *Faults) Init(i Info) { s.Info = i }

// Grow makes the disk larger that faults can be added to.
func (s *Faults) Grow(sectors uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Info.CapacitySectors = sectors
}

// Add arms faults, all of them or, with an error that says why, none, and returns
// their numbers. Requests that are submitted from now on may be struck.
func (s *Faults) Add(faults ...Fault) (ids []uint64, err error) {
	if s.Refuse != "" && len(faults) > 0 {
		return nil, errors.New(s.Refuse)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := make([]*armed, 0, len(faults))
	for _, f := range faults {
		if err := f.Check(&s.Info); err != nil {
			return nil, fmt.Errorf("fault %q: %w", f, err)
		}
		fresh = append(fresh, s.arm(f))
	}
	if len(s.all)+len(fresh) > MaxFaults {
		return nil, fmt.Errorf("%d faults and %d more are too many: a disk has at most %d; clear some first", len(s.all), len(fresh), MaxFaults)
	}
	for _, a := range fresh {
		s.last++
		a.id = s.last
		ids = append(ids, a.id)
	}
	s.all = append(s.all, fresh...)
	s.refreshLocked()
	return ids, nil
}

func (s *Faults) arm(f Fault) *armed {
	a := &armed{Fault: f, ops: f.Ops, last: math.MaxUint64} // also where a disk grows to
	if a.ops == 0 {
		a.ops = FaultOps[f.Kind]
	}
	switch f.Place {
	case InZones:
		size := s.Info.Zoned.ZoneSectors
		a.first, a.last = f.First*size, min((f.Last+1)*size, s.Info.CapacitySectors)-1
	case InSectors:
		a.first, a.last = f.First, f.Last
	}
	if f.Place != Everywhere {
		a.ops &^= SetOf(OpFlush) // a flush has no place
	}
	a.times.Store(f.Times)
	a.room.Store(f.Left)
	return a
}

// List returns the faults in the order in which they came, spent ones too.
func (s *Faults) List() []FaultStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]FaultStatus, len(s.all))
	for i, a := range s.all {
		list[i] = FaultStatus{ID: a.id, Fault: a.Fault, Struck: a.struck.Load(), Spent: a.spent()}
	}
	return list
}

// Clear takes the faults with these numbers away, or none of them when there is
// no such fault. Answers that they hold back go out at once.
func (s *Faults) Clear(ids ...uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if !slices.ContainsFunc(s.all, func(a *armed) bool { return a.id == id }) {
			return fmt.Errorf("there is no fault %d", id)
		}
	}
	s.removeLocked(func(a *armed) bool { return slices.Contains(ids, a.id) })
	return nil
}

// ClearAll takes all faults away, and returns how many that were.
func (s *Faults) ClearAll() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.all)
	s.removeLocked(func(*armed) bool { return true })
	return n
}

// removeLocked takes faults away. s.mu is held.
func (s *Faults) removeLocked(which func(*armed) bool) {
	s.all = slices.DeleteFunc(s.all, func(a *armed) bool {
		if which(a) {
			a.gone = true
		}
		return a.gone
	})
	s.refreshLocked()
	s.releaseWhereLocked(func(_ *Request, h *heldAnswer) bool { return h.by.gone })
}

// refreshLocked makes live what s.all, of which s.mu is held, says.
func (s *Faults) refreshLocked() {
	live := slices.DeleteFunc(slices.Clone(s.all), (*armed).spent)
	if len(live) == 0 {
		s.live.Store(nil)
		return
	}
	s.live.Store(&live)
}

// Any says whether there is a fault that can still strike.
func (s *Faults) Any() bool { return s.live.Load() != nil }

// Held is how many answers are held back at the moment.
func (s *Faults) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

func (a *armed) spent() bool { return a.Times != 0 && a.times.Load() == 0 }

// Strike looks whether faults strike r, which is about to touch so many sectors
// of the disk from first on. If any does, r.Fault says what follows, and strike
// returns true when r fails.
func (s *Faults) Strike(r *Request, first, sectors uint64) (fails bool) {
	live := s.live.Load()
	if live == nil {
		return false
	}
	return s.among(*live, r, first, sectors)
}

func (s *Faults) among(live []*armed, r *Request, first, sectors uint64) (fails bool) {
	// Not yet a outcome: it would be allocated for those that are not struck too.
	var err error
	var good uint64
	var late *armed
	for _, a := range live {
		if !a.hits(r.Op, first, sectors) || a.Kind == FaultFull || a.Kind != FaultLatency && err != nil || !s.take(a) {
			continue
		}
		switch {
		case a.Kind != FaultLatency:
			err = a.cause(nil)
			good = a.After &^ (uint64(s.Info.LogicalBlockSize)>>SectorShift - 1)
		case late == nil || late.Delay < a.Delay:
			late = a
		}
	}
	// Space is taken by what nothing else keeps from being written.
	for _, a := range live {
		if a.Kind == FaultFull && a.ops.Has(r.Op) && err == nil && !a.fits(sectors<<SectorShift) {
			a.struck.Add(1)
			err = a.cause(unix.ENOSPC)
		}
	}
	if err != nil || late != nil {
		r.Fault = &Outcome{Err: err, Good: good, late: late}
	}
	return err != nil
}

// hits says whether the fault is meant for an operation on these sectors.
func (a *armed) hits(op Op, first, sectors uint64) bool {
	if !a.ops.Has(op) {
		return false
	}
	if op == OpFlush {
		return true
	}
	return first <= a.last && first+sectors > a.first && (a.After == 0 || a.After < sectors)
}

// take counts a strike, unless the fault is spent.
func (s *Faults) take(a *armed) bool {
	if a.Times != 0 {
		for {
			n := a.times.Load()
			if n == 0 {
				return false
			}
			if a.times.CompareAndSwap(n, n-1) {
				break
			}
		}
		if a.spent() {
			s.mu.Lock()
			s.refreshLocked()
			s.mu.Unlock()
		}
	}
	a.struck.Add(1)
	return true
}

// fits takes n bytes of the room that FaultFull leaves, or none.
func (a *armed) fits(n uint64) bool {
	for {
		room := a.room.Load()
		if n > room {
			return false
		}
		if a.room.CompareAndSwap(room, room-n) {
			return true
		}
	}
}

// cause is what a request ends with that the fault makes fail.
func (a *armed) cause(errno error) error {
	if errno != nil {
		return fmt.Errorf("%w: fault %d (%v): %w", ErrIO, a.id, a.Fault, errno)
	}
	return fmt.Errorf("%w: fault %d (%v)", ErrIO, a.id, a.Fault)
}

// hold keeps the answer to r back, which is done but for that. It reports false
// when that is not wanted any more. It is called on r's lane.
func (s *Faults) hold(r *Request) bool {
	by := r.Fault.late
	r.Fault.late = nil // once is enough
	s.mu.Lock()
	defer s.mu.Unlock()
	if by.gone || r.Lane.hurry.Load() {
		return false
	}
	r.over = true
	h := &heldAnswer{by: by}
	h.timer = time.AfterFunc(by.Delay, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.held[r] == h {
			s.releaseLocked(r, h)
		}
	})
	if s.held == nil {
		s.held = map[*Request]*heldAnswer{}
	}
	s.held[r] = h
	return true
}

// releaseWhereLocked hands held answers back to their lanes. s.mu is held.
func (s *Faults) releaseWhereLocked(which func(*Request, *heldAnswer) bool) {
	for r, h := range s.held {
		if which(r, h) {
			s.releaseLocked(r, h)
		}
	}
}

// releaseLocked hands one held answer back. s.mu is held: whoever comes second, its
// timer or a clearing hand, finds that it is gone.
func (s *Faults) releaseLocked(r *Request, h *heldAnswer) {
	h.timer.Stop()
	delete(s.held, r)
	r.Post()
}

// Hurry lets the answers go that faults of d hold back on the lane, and has none
// held back from now on: who stops a worker waits for no made-up delay. Any
// goroutine may call it.
func (l *Lane) Hurry(d Disk) {
	l.hurry.Store(true)
	s := d.Faults()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseWhereLocked(func(r *Request, _ *heldAnswer) bool { return r.Lane == l })
}

// CutShort makes r's I/O, a write that a fault lets fail, end where the fault
// has it. It reports false when nothing of it is to land.
func (r *Request) CutShort() bool {
	n := r.Fault.Good << SectorShift
	if n == 0 {
		return false
	}
	r.Clip = iovec.AppendHead(r.Clip[:0], r.Iov, n)
	r.IO.Len, r.IO.Iov = int64(n), r.Clip
	return true
}
