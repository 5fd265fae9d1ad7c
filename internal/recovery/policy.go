package recovery

import (
	"slices"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A Policy decides, for one disk and the rings of its device, what may be carried out again
// of the requests that a previous process had begun, or may have begun. The table is in
// docs/restart.md, "What may be carried out again". The device reports to it what happens to
// the disk and to the rings, and asks the Ring of each queue about its requests.
//
// It belongs to the session's goroutine; a worker calls User and the methods of its Ring.
type Policy struct {
	disk disk.Disk
	// user is the number of this user of the disk, once it is known.
	user  uint64
	known bool
	// records is the in-flight record of all rings; nil if no later process will ask.
	records *inflight.Record
	// postponed is the record to adopt once the disk is acquired; nil: none.
	postponed *inflight.Record
	rings     []Ring
	used      bool // a queue was started since the disk was opened
}

// New makes a Policy for a device with so many queues, over d.
func New(d disk.Disk, queues int) *Policy {
	p := &Policy{rings: make([]Ring, queues)}
	for i := range p.rings {
		p.rings[i].policy = p
	}
	p.Opened(d)
	return p
}

// SetDisk replaces the disk: by a placeholder when it is released, or the placeholder by another.
func (p *Policy) SetDisk(d disk.Disk) { p.disk = d }

// Opened records in which state the last daemon has left the disk, which was just opened.
func (p *Policy) Opened(d disk.Disk) {
	p.disk, p.used = d, false
	for i := range p.rings {
		p.rings[i].unclean = disk.Unclean(d)
	}
}

// Released records that another daemon may acquire the disk from now on, and carry out
// there what waits here. It is called once the disk is released, not before: a process that
// dies before then finds the disk closed cleanly.
func (p *Policy) Released() {
	p.user, p.known = 0, false
	p.clearUnclean()
	for k := range p.records.Rings() {
		p.records.Ring(k).SetNote(uint64(NoteNone))
	}
}

func (p *Policy) clearUnclean() {
	for i := range p.rings {
		p.rings[i].unclean = false
	}
}

// Ring is that of queue i.
func (p *Policy) Ring(i int) *Ring { return &p.rings[i] }

// Start decides whether what waits in ring i, which starts, may have run. It stores that in
// the record before the disk's state says that requests may be in flight. An error is why
// the disk cannot be used.
func (p *Policy) Start(i int, r *transport.Ring) error {
	ring := &p.rings[i]
	ring.record, ring.mayHaveRun, ring.taken = r.Record, p.MayHaveRun(i, r), ring.claimed
	p.records = r.Records
	p.noteRings(i)
	var err error
	if p.known {
		err = disk.Begin(p.disk)
	} else {
		// A session that does not continue another one's requests is a new user.
		p.user, err = disk.Renew(p.disk)
		p.known = err == nil
	}
	p.used = p.used || err == nil
	return err
}

// Served records that queue i is served: what was claimed for it is its worker's.
func (p *Policy) Served(i int) { p.rings[i].claimed = nil }

// Stopped records that queue i, which had started, has stopped.
func (p *Policy) Stopped(i int) {
	ring := &p.rings[i]
	ring.unclean, ring.taken = ring.mayHaveRun, nil
}

// MayHaveRun reports whether what waits in ring i, which starts, may have been carried out by
// a daemon that died. It is asked once for each ring of the first session: requests that
// arrive after a later stop and restart are new.
//
// The note in the record says so across processes. A process that dies must not change
// which requests may have run before they are answered, and what it does to the disk must
// not make it look as if others may have run.
func (p *Policy) MayHaveRun(i int, r *transport.Ring) bool {
	switch ParseNote(r.Record.Note(), p.zoned()) {
	case NoteSettled:
		return false
	case NoteNone:
		if !p.rings[i].unclean {
			return false
		}
	}
	return inMidstream(r) || wentRound(r)
}

// noteRings stores in the record in which rings requests may have run: of ring i, which
// starts, and of others of which the record does not say it yet.
func (p *Policy) noteRings(i int) {
	for k := range p.records.Rings() {
		note, r := NoteSettled, p.records.Ring(k)
		if k == i && p.rings[k].mayHaveRun || k != i && p.rings[k].unclean {
			note = NoteMayHaveRun
		}
		if k == i || ParseNote(r.Note(), true) == NoteNone {
			r.SetNote(uint64(note))
		}
	}
}

// zoned reports whether the disk has zones.
func (p *Policy) zoned() bool { return p.disk.Info().Zoned != nil }

// User is the number of this user of the disk, 0 if it is not known.
func (p *Policy) User() uint64 { return p.user }

// Adopt claims the addresses of what r lists as in flight, as a process that has died has
// left it. It replaces an earlier claim. nil: no later process will resume these requests.
func (p *Policy) Adopt(r *inflight.Record) {
	p.GiveUp()
	p.postponed = nil
	if p.records = r; r == nil {
		return // without an access to the disk, which may hang
	}
	run := disk.Run(p.disk)
	var ours []*disk.Note
	for i := range r.Rings() {
		ring := r.Ring(i)
		var notes []*disk.Note
		for _, m := range ring.InFlight() {
			notes = append(notes, (*disk.Note)(m))
		}
		if user := ring.User(); user == run {
			p.user, p.known = run, true // no other user has used the disk since
			ours = append(ours, notes...)
		} else {
			disk.Claim(p.disk, user, notes)
		}
		if i < len(p.rings) {
			p.rings[i].claimed = notes
		}
	}
	disk.Claim(p.disk, run, ours) // at once: it takes their order to find their places
}

// Postpone is Adopt while the disk is detached: it gives up earlier claims, and
// AdoptPostponed adopts r.
func (p *Policy) Postpone(r *inflight.Record) {
	p.GiveUp()
	p.records, p.postponed = r, r
}

// AdoptPostponed adopts what was postponed, now that the disk is acquired.
func (p *Policy) AdoptPostponed() {
	if p.postponed != nil {
		p.Adopt(p.postponed)
	}
}

// Leave leaves what is claimed to another process, as the record has it.
func (p *Policy) Leave() {
	for i := range p.rings {
		ring := &p.rings[i]
		for _, m := range ring.claimed {
			disk.Unclaim(p.disk, m)
		}
		ring.claimed = nil
	}
}

// GiveUp releases what is claimed for queues that are not served, and reports whether there
// was something.
func (p *Policy) GiveUp() (some bool) {
	for i := range p.rings {
		if ring := &p.rings[i]; len(ring.claimed) > 0 {
			p.release(ring.claimed)
			ring.claimed, some = nil, true
		}
	}
	return some
}

func (p *Policy) release(notes []*disk.Note) {
	for _, n := range notes {
		disk.Release(p.disk, n)
	}
}

// Reset records that the session has ended, or that its device was reset.
func (p *Policy) Reset() {
	p.GiveUp()
	if p.known { // its session has ended, and no other one continues its requests
		p.clearUnclean()
	}
	p.user, p.known, p.records, p.postponed = 0, false, nil, nil
}

// Close leaves the state of a disk that was not used since a daemon died with it as it was
// found, for the next process.
func (p *Policy) Close() {
	if !p.used && slices.ContainsFunc(p.rings, func(r Ring) bool { return r.unclean }) {
		disk.LeaveUnclean(p.disk)
	}
}
