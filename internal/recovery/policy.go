package recovery

import (
	"slices"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A Policy decides, for one disk and the rings of its device, what may be carried out again
// of the requests that an earlier process had begun, or may have begun:
//
//   - A request that the record of a ring lists as in flight, of the last user of the disk,
//     is carried out again where its replay note says at which address, and not where the
//     note says that it is done (package backend). Adopt claims the addresses.
//   - A request that only waits in a ring may have run where the daemon that had the disk
//     died, and the ring does not begin at its beginning. The note of the ring in the record
//     says so to later processes; without a record only this process knows. MayHaveRun.
//   - Of requests that may have run those are refused that would do something else the
//     second time. Refuse.
//
// It belongs to the session's goroutine, but for Refuse and Release, which workers call.
type Policy struct {
	disk disk.Disk
	// user is the number of this user of the disk, once it is known.
	user  uint64
	known bool
	// records is of what is in flight in the rings; nil where no later process will ask.
	records *inflight.Record
	claimed map[int][]*disk.Note // by queue, of those that have not been served since
	// unclean are the queues that were not used since a daemon died with the disk, or not
	// for long enough to look at what waited there.
	unclean []bool
	used    bool // a queue was started since the disk was opened
}

// NewPolicy makes a Policy for a device with so many queues, over d.
func New(d disk.Disk, queues int) *Policy {
	p := &Policy{claimed: map[int][]*disk.Note{}, unclean: make([]bool, queues)}
	p.Opened(d)
	return p
}

// SetDisk changes the disk for one that stands for it while it is not here.
func (p *Policy) SetDisk(d disk.Disk) { p.disk = d }

// Opened takes note of how the last daemon has left the disk, which was opened just now.
func (p *Policy) Opened(d disk.Disk) {
	p.disk, p.used = d, false
	for i := range p.unclean {
		p.unclean[i] = disk.Unclean(d)
	}
}

// Released takes note that another daemon may have the disk from now on: what waits may
// be carried out there. It is called once the disk is released, not before: a process that
// dies before then finds the disk closed cleanly.
func (p *Policy) Released() {
	p.user, p.known = 0, false
	clear(p.unclean)
	for k := range p.records.Rings() {
		p.records.Ring(k).SetNote(uint64(NoteNone))
	}
}

// Start decides about ring i, which starts: whether what waits in it may have run. It has
// the record say so, before the disk is told that requests may be in flight. An error is
// why the disk cannot be used.
func (p *Policy) Start(i int, r *transport.Ring) (mayHaveRun bool, err error) {
	mayHaveRun = p.MayHaveRun(i, r)
	p.records = r.Records
	p.noteRings(i, mayHaveRun)
	if p.known {
		err = disk.Begin(p.disk)
	} else {
		// A session that does not go on with another one's requests is a new user.
		p.user, err = disk.Renew(p.disk)
		p.known = err == nil
	}
	p.used = p.used || err == nil
	return mayHaveRun, err
}

// Stopped takes note that ring i has stopped, and whether what waits in it may still have
// run.
func (p *Policy) Stopped(i int, mayHaveRun bool) { p.unclean[i] = mayHaveRun }

// MayHaveRun says whether what waits in ring i, which starts, may have been carried out by
// a daemon that died. It is asked once for each ring of the first session: requests that
// arrive after a later stop and restart are new.
//
// Where there is a record it says so across processes. A process that dies must leave what
// may have run as it was, until that is answered; and what it does to the disk must not
// make requests look as if they may have run that have not.
func (p *Policy) MayHaveRun(i int, r *transport.Ring) bool {
	switch ParseNote(r.Record.Note(), p.zoned()) {
	case NoteSettled:
		return false
	case NoteMayHaveRun:
		return inMidstream(r) || wentRound(r)
	}
	return p.unclean[i] && (inMidstream(r) || wentRound(r))
}

// noteRings has the record say in which rings requests may have run: ring i, which starts,
// and others, where it does not say so yet.
func (p *Policy) noteRings(i int, mayHaveRun bool) {
	for k := range p.records.Rings() {
		says, r := NoteSettled, p.records.Ring(k)
		if k == i && mayHaveRun || k != i && p.unclean[k] {
			says = NoteMayHaveRun
		}
		if k == i || ParseNote(r.Note(), true) == NoteNone {
			r.SetNote(uint64(says))
		}
	}
}

// zoned says whether the disk has zones.
func (p *Policy) zoned() bool { return p.disk.Info().Zoned != nil }

// User is the number of this user of the disk, 0 while it is not known.
func (p *Policy) User() uint64 { return p.user }

// Adopt claims what r says was in flight when another process died. It takes the place of
// what was claimed before. nil says that no later process will come with these requests.
func (p *Policy) Adopt(r *inflight.Record) {
	p.GiveUp()
	if p.records = r; r == nil {
		return // without a look at the disk, which may hang
	}
	run := disk.Run(p.disk)
	var ours []*disk.Note
	for i := range r.Rings() {
		ring := r.Ring(i)
		var marks []*disk.Note
		for _, m := range ring.InFlight() {
			marks = append(marks, (*disk.Note)(m))
		}
		if user := ring.User(); user == run {
			p.user, p.known = run, true // nobody else has used the disk since
			ours = append(ours, marks...)
		} else {
			disk.Claim(p.disk, user, marks)
		}
		if len(marks) > 0 {
			p.claimed[i] = marks
		}
	}
	disk.Claim(p.disk, run, ours) // at once: it takes their order to find their places
}

// Postpone is Adopt while the disk is not here: what was claimed is given up, and r is to
// be adopted once the disk is opened.
func (p *Policy) Postpone(r *inflight.Record) {
	p.GiveUp()
	p.records = r
}

// Claimed is what is claimed for queue i.
func (p *Policy) Claimed(i int) []*disk.Note { return p.claimed[i] }

// Served takes note that queue i is served: what was claimed for it is its worker's.
func (p *Policy) Served(i int) { delete(p.claimed, i) }

// Leave leaves what is claimed to another process, as it stands in the record.
func (p *Policy) Leave() {
	for i, marks := range p.claimed {
		for _, m := range marks {
			disk.Unclaim(p.disk, m)
		}
		delete(p.claimed, i)
	}
}

// GiveUp gives up what is claimed for queues that were not served, and says whether there
// was something.
func (p *Policy) GiveUp() (some bool) {
	for i, marks := range p.claimed {
		p.Release(marks)
		delete(p.claimed, i)
		some = true
	}
	return some
}

// Release gives up what is still claimed for marks.
func (p *Policy) Release(marks []*disk.Note) {
	for _, m := range marks {
		disk.Release(p.disk, m)
	}
}

// Reset takes note that the session is over, or its device reset.
func (p *Policy) Reset() {
	p.GiveUp()
	if p.known { // its session is over, and no other goes on with its requests
		clear(p.unclean)
	}
	p.user, p.known, p.records = 0, false, nil
}

// Close leaves a disk that was not used since a daemon died with it as it was found, for
// the next process.
func (p *Policy) Close() {
	if !p.used && slices.Contains(p.unclean, true) {
		disk.LeaveUnclean(p.disk)
	}
}
