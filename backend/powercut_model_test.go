package backend

import (
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// A cutModel is what a guest was told since its disk was opened, and says
// whether what a power cut or a kill left is true to it (docs/durability.md). It
// asks the disk nothing but what a guest can ask.
type cutModel struct {
	g     zone.Geometry
	now   uint64 // counts what the guest sends and is told
	zones map[int]*cutZone
	reqs  map[uint32]*cutReq
	// killed says that requests in flight may have been cut off.
	killed bool
}

// A cutZone is one zone: how it was found, and what was sent to it since.
type cutZone struct {
	base     []cutStamp // what was found in it
	baseEnd  uint64     // its write pointer then, sectors from its start
	baseFull bool

	reqs []*cutReq
	// Resets that were sent and answered. They are sent one after the other, so
	// a number of resets is a time in the zone's life: an epoch.
	sent, answered int
	// covered is the last reset that must not be undone.
	covered int
}

// A cutReq is one request to one zone.
type cutReq struct {
	*disk.Request
	id             uint32
	inZone         int
	at, behind     uint64 // of writes, sectors from the zone's start
	sent, answered uint64 // when; answered 0: not yet
	ok             bool   // it was answered, and with success
	queued, landed bool   // of writes: it has its address; all of its data has been moved
	covered        bool   // a power cut must not undo it
	epochs         [2]int // the first and the last epoch that it may belong to
	pinned         bool   // epochs are not going to change
}

func newCutModel(g zone.Geometry) *cutModel {
	return &cutModel{g: g, zones: make(map[int]*cutZone), reqs: make(map[uint32]*cutReq)}
}

func (m *cutModel) tick() uint64 {
	m.now++
	return m.now
}

// epochsOf are the epochs that r may belong to, as far as is known by now.
func (z *cutZone) epochsOf(r *cutReq) (lo, hi int) {
	if !r.pinned {
		return r.epochs[0], z.sent
	}
	return r.epochs[0], r.epochs[1]
}

// send notes that r is sent to zone i; a request to all zones is noted for each.
func (m *cutModel) send(i int, r *cutReq) {
	z := m.zones[i]
	r.sent = m.tick()
	r.inZone = i
	r.epochs[0] = z.answered
	if r.Op == disk.OpReset || r.Op == disk.OpResetAll {
		z.sent++
	}
	z.reqs = append(z.reqs, r)
	if r.id != 0 {
		m.reqs[r.id] = r
	}
}

// answer notes that r is done.
func (m *cutModel) answer(i int, r *cutReq) {
	z := m.zones[i]
	r.answered, r.ok = m.tick(), r.Err == nil
	if !r.pinned {
		r.epochs[1], r.pinned = z.sent, true
	}
	if r.Op == disk.OpReset || r.Op == disk.OpResetAll {
		z.answered++
		r.epochs = [2]int{z.answered, z.answered}
	}
	if r.Stable && r.ok {
		m.cover(z, r)
	}
}

func (m *cutModel) cover(z *cutZone, r *cutReq) {
	r.covered = true
	if r.Op == disk.OpReset || r.Op == disk.OpResetAll {
		z.covered = max(z.covered, r.epochs[0])
	}
}

// flushed notes that a flush sent at the given time was answered; with never, it
// covers all that was answered.
func (m *cutModel) flushed(sent uint64) {
	for _, z := range m.zones {
		for _, r := range z.reqs {
			if r.ok && r.answered < sent {
				m.cover(z, r)
			}
		}
	}
}

const never = 1<<64 - 1

// issued notes that the data of the write r goes to sectors from at on.
func (m *cutModel) issued(r *cutReq, at uint64) {
	r.at, r.behind = at, at+r.Bytes>>disk.SectorShift
	r.queued = true
	// A reset waits for the writes in flight: one that is sent from now on is
	// behind this write.
	r.epochs[1], r.pinned = m.zones[r.inZone].sent, true
}

// moved notes that all data of the write r stands in the page cache.
func (m *cutModel) moved(r *cutReq) {
	r.landed = true
	// A reset that is answered by now is in front of the write, and durable.
	z := m.zones[r.inZone]
	r.epochs[0] = max(r.epochs[0], z.answered)
	z.covered = max(z.covered, z.answered)
}

// placeOf is where the write r, which has no answer, goes, in sectors from its zone's start:
// also one whose data was not sent, for it waits for a block of the storage that it shares
// with another. It has its address then, and writes behind it can have landed.
func (m *cutModel) placeOf(r *cutReq) (at, behind uint64) {
	switch start := uint64(r.inZone) * m.g.ZoneSectors; {
	case r.queued:
		return r.at, r.behind
	case r.Op == disk.OpAppend && r.AppendSector < start: // it waits for the zone
		return 0, 0
	case r.Op == disk.OpAppend:
		at = r.AppendSector - start
	default:
		at = r.Sector - start
	}
	return at, at + r.Bytes>>disk.SectorShift
}

func (r *cutReq) isWrite() bool { return r.Op == disk.OpWrite || r.Op == disk.OpAppend }

// judge says what is wrong with sequential zone i, found as z says with the
// sectors got.
func (m *cutModel) judge(i int, z zone.Descriptor, got []cutStamp) error {
	prefix := z.WP - z.Start
	if z.State == zone.Full { // the report does not say how much was written
		for prefix = uint64(len(got)); prefix > 0 && got[prefix-1] == (cutStamp{}); prefix-- {
		}
	}
	for s := prefix; s < uint64(len(got)); s++ {
		if got[s] != (cutStamp{}) {
			return fmt.Errorf("zone %d, %v, written up to %d: sector %d does not read as zeroes, but as %v", i, z.State, prefix, s, got[s])
		}
	}
	if z.State == zone.Empty && prefix > 0 || z.State == zone.Closed && prefix == 0 {
		return fmt.Errorf("zone %d is %v, written up to %d", i, z.State, prefix)
	}
	mz := m.zones[i]
	var why error
	for e := mz.covered; e <= mz.sent; e++ {
		err := m.fits(i, e, z.State, got[:prefix])
		if err == nil {
			return nil
		}
		if why == nil || prefix > 0 && e > mz.covered {
			why = fmt.Errorf("after reset %d of %d (%d covered): %w", e, mz.sent, mz.covered, err)
		}
	}
	return fmt.Errorf("zone %d, %v, written up to %d: %w", i, z.State, prefix, why)
}

// fits says why zone i cannot be in epoch e when it is in the given state and
// got is below its write pointer.
func (m *cutModel) fits(i, e int, state zone.State, got []cutStamp) error {
	z := m.zones[i]
	end := uint64(len(got))
	for s, st := range got {
		if err := m.belongs(i, e, uint64(s), st); err != nil {
			return err
		}
	}
	full := e == 0 && z.baseFull || end == m.g.Capacity(i)
	isEnd := end == 0 || e == 0 && end == z.baseEnd
	if e == 0 && (end < z.baseEnd || z.baseFull && state != zone.Full) {
		return fmt.Errorf("it was %d sectors (full: %v) when the disk was opened", z.baseEnd, z.baseFull)
	}
	for _, r := range z.reqs {
		lo, hi := z.epochsOf(r)
		if e < lo && r.covered {
			return fmt.Errorf("older than %v, answered and flushed", r)
		}
		if e < lo || e > hi || r.answered != 0 && !r.ok {
			continue
		}
		sure := lo == hi && r.ok
		switch {
		case r.Op == disk.OpFinish && sure && r.covered && state != zone.Full:
			return fmt.Errorf("not full, but %v was answered and flushed", r)
		case r.Op == disk.OpFinish:
			full = true
		case r.isWrite() && sure && r.covered && end < r.behind:
			return fmt.Errorf("without %v, answered and flushed", r)
		case r.isWrite() && sure && state == zone.Full && end < r.behind:
			return fmt.Errorf("full without %v", r)
		case r.isWrite() && r.landed && r.behind == end:
			isEnd = true
		}
	}
	if state == zone.Full != full && (state == zone.Full || end == m.g.Capacity(i)) {
		return fmt.Errorf("nothing made it %v", state)
	}
	if state != zone.Full && !isEnd {
		return fmt.Errorf("no write that landed ends there")
	}
	return nil
}

// belongs says why st cannot stand below the write pointer, in sector s of zone
// i, in epoch e.
func (m *cutModel) belongs(i, e int, s uint64, st cutStamp) error {
	z := m.zones[i]
	if e == 0 && s < z.baseEnd {
		if st != z.base[s] {
			return fmt.Errorf("sector %d is %v, but was %v when the disk was opened", s, st, z.base[s])
		}
		return nil
	}
	if st == (cutStamp{}) {
		for _, r := range z.reqs {
			lo, hi := z.epochsOf(r)
			at, behind := m.placeOf(r)
			if m.killed && r.isWrite() && (r.queued || r.answered == 0) && !r.landed && lo <= e && e <= hi && at <= s && s < behind {
				return nil
			}
		}
		return fmt.Errorf("sector %d reads as zeroes", s)
	}
	r := m.reqs[st.id]
	switch {
	case r == nil || !r.isWrite():
		return fmt.Errorf("sector %d is %v, from before the disk was opened", s, st)
	case r.inZone != i || r.at+uint64(st.index) != s:
		return fmt.Errorf("sector %d is %v of %v", s, st, r)
	case r.answered != 0 && !r.ok:
		return fmt.Errorf("sector %d is %v of %v, which failed", s, st, r)
	}
	if lo, hi := z.epochsOf(r); e < lo || e > hi {
		return fmt.Errorf("sector %d is %v of %v, after reset %d to %d", s, st, r, lo, hi)
	}
	return nil
}

// judgeConventional says what is wrong with conventional zone i when its sectors
// are got: each has to be what was last made durable, or something later.
func (m *cutModel) judgeConventional(i int, got []cutStamp) error {
	z := m.zones[i]
	for s, st := range got {
		var floor uint64 // when the last write that must not be undone was sent
		for _, r := range z.reqs {
			if r.covered && r.at <= uint64(s) && uint64(s) < r.behind {
				floor = max(floor, r.sent)
			}
		}
		r := m.reqs[st.id]
		switch {
		case floor == 0 && st == z.base[s]:
		case r == nil || r.inZone != i || !r.isWrite() || r.at+uint64(st.index) != uint64(s):
			return fmt.Errorf("conventional zone %d, sector %d is %v, but was %v when the disk was opened", i, s, st, z.base[s])
		case r.answered != 0 && r.answered < floor:
			return fmt.Errorf("conventional zone %d, sector %d is %v, older than what was answered and flushed", i, s, st)
		}
	}
	return nil
}

// from begins anew with zone i as it was found.
func (m *cutModel) from(i int, z zone.Descriptor, got []cutStamp) {
	n := &cutZone{base: got, baseEnd: z.WP - z.Start, baseFull: z.State == zone.Full}
	if z.State == zone.Full {
		for n.baseEnd = uint64(len(got)); n.baseEnd > 0 && got[n.baseEnd-1] == (cutStamp{}); n.baseEnd-- {
		}
	}
	m.zones[i] = n
}

func (r *cutReq) String() string {
	s := fmt.Sprintf("%v %d (sectors %d to %d", r.Op, r.id, r.at, r.behind)
	if r.Stable {
		s += ", write-through"
	}
	if r.answered == 0 {
		s += ", no answer yet"
	}
	return s + ")"
}
