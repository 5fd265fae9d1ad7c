package device

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/vhostuser/handover"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A shelf is a fd store of one session.
type shelf map[string]int

func (s shelf) keep() *handover.Store { return &handover.Store{Put: s.put, Drop: s.drop} }

func (s shelf) put(name string, fd int) (err error) {
	s[name], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return err
}

func (s shelf) drop(name string) {
	_ = unix.Close(s[name])
	delete(s, name)
}

// take is what the store gives to the next process.
func (s shelf) take(t *testing.T) handover.Stored {
	t.Helper()
	k := handover.Stored{}
	for name, fd := range s {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		k[name] = foreign.NewFD(n)
	}
	return k
}

// keptGuest is a front-end whose session is kept in s.
func keptGuest(r *rig, s shelf, o frontend.Options) *guest {
	r.t.Helper()
	far, near := socketPair(r.t)
	r.session = vhostuser.NewSession(far, r.dev, vhostuser.Options{Store: s.keep()})
	ended := make(chan error, 1)
	go func() { ended <- r.session.Run() }()
	client, err := frontend.New(near)
	if err != nil {
		r.t.Fatal(err)
	}
	d, err := frontend.Open(client, o)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.book)
	}
	return &guest{Disk: d, r: r, ended: ended}
}

// guestWithRecord is a keptGuest whose queues are stopped, and which has given the daemon
// a record with an append in flight in queue 1 (leftBehind).
func guestWithRecord(r *rig, s shelf) (*guest, *inflight.Record) {
	r.t.Helper()
	g := keptGuest(r, s, frontend.Options{})
	if _, err := g.Queue(0).Stop(); err != nil {
		r.t.Fatal(err)
	}
	rec := leftBehind(r.t.(*testing.T), r)
	setInflight(g, rec)
	return g, rec
}

// A write that was in flight when a daemon died, in a queue that the front-end has not
// started yet, is not given up when the next daemon hands over to yet another one: that
// one keeps its place, in an image that was closed in good order.
func TestHandOverLeavesClaims(t *testing.T) {
	r, s := zonedRig(t, smallZones, 2), shelf{}
	g, rec := guestWithRecord(r, s)
	mark := rec.Ring(1).Mark(5)
	was := mark[0]
	r.session.Suspend()
	if err := <-g.ended; err != nil {
		t.Fatal(err)
	}
	if mark[0] != was {
		t.Errorf("the next daemon finds the mark %#x, and it was %#x", mark[0], was)
	}
	r.close()
	next := newRig(t, r.path, 2)
	session, err := vhostuser.ResumeSession(s.take(t), next.dev, vhostuser.Options{Store: s.keep()})
	if err != nil {
		t.Fatal(err)
	}
	if mark[0] != was || next.dev.recovery.Ring(1).Claims() != 1 {
		t.Errorf("the next daemon makes the mark %#x, and it was %#x; its claims: %v", mark[0], was, next.dev.recovery.Ring(1).Claims())
	}
	ended := make(chan error, 1)
	go func() { ended <- session.Run() }()
	if err := g.Queue(0).Start(0); err != nil {
		t.Fatal(err)
	}
	at, err := g.Queue(0).Append(pattern(4096, 1), smallZones.ZoneSectors)
	if err != nil || at != smallZones.ZoneSectors+8 {
		t.Errorf("an append beside it is at sector %d, %v", at, err)
	}
	if err := errors.Join(g.Close(), <-ended); err != nil {
		t.Error(err)
	}
	if len(s) != 0 {
		t.Errorf("still kept: %v", s)
	}
}

// A hand-over does not wait for ever for such a write, where something that is to be
// answered first waits for it.
func TestHandOverWithSomethingBehindAClaim(t *testing.T) {
	r, s := zonedRig(t, smallZones, 2), shelf{}
	r.dev.patience = time.Millisecond
	g, _ := guestWithRecord(r, s)
	if err := g.Queue(0).Start(0); err != nil {
		t.Fatal(err)
	}
	reset := send(g, driver.TypeZoneReset, smallZones.ZoneSectors, 0)
	read := send(g, driver.TypeIn, 0, 4096)
	done := make([]*frontend.Request, 2)
	if n, err := g.Queue(0).Wait(done); n != 1 || err != nil || done[0] != read {
		t.Fatalf("%d are done, %v: the reset did not wait", n, err)
	}
	r.session.Suspend()
	if err := <-g.ended; err != nil {
		t.Fatal(err)
	}
	if n, err := g.Queue(0).Wait(done); n != 1 || err != nil || done[0] != reset || reset.Status != driver.StatusOK {
		t.Errorf("%d are done, %v", n, err)
	}
	for name := range s {
		s.drop(name)
	}
	_ = g.Abandon()
}

// A process that cannot start all rings of a session serves none of them: what a ring has
// in flight may wait for what another one has, here a reset for an append, and all of it
// is for a process that can; or, where the front-end is gone, for who comes back with the
// record.
func TestUnfitProcessServesNothing(t *testing.T) {
	for _, gone := range []bool{false, true} {
		dead, s := zonedRig(t, smallZones, 2), shelf{}
		g := keptGuest(dead, s, frontend.Options{Queues: 2})
		dead.session.Suspend()
		if err := <-g.ended; err != nil {
			t.Fatal(err)
		}
		dead.close() // in good order, and yet with requests in flight: as if it had died after these
		reset := send(g, driver.TypeZoneReset, smallZones.ZoneSectors, 0)
		write := sendTo(g, 1, driver.TypeZoneAppend, smallZones.ZoneSectors, 4096)
		rec, err := inflight.Open(shelf{"1": s["1"]}.take(t)["1"], 0, 2, 32768)
		if err != nil {
			t.Fatal(err)
		}
		rec.Ring(0).Take(0)
		mark := rec.Ring(1).Take(0)
		was := [2]uint64{markAt | smallZones.ZoneSectors<<8, 8}
		*mark = was
		if gone {
			_ = g.Abandon()
		}

		unfit := newRig(t, dead.path, 2)
		open, opened := unfit.dev.engine, 0
		unfit.dev.engine = func(wake func()) (engine.Engine, error) {
			if opened++; opened == 2 {
				return nil, unix.EAGAIN
			}
			return open(wake)
		}
		_, err = vhostuser.ResumeSession(s.take(t), unfit.dev, vhostuser.Options{Store: s.keep()})
		if err == nil || errors.As(err, new(handover.UnfitError)) == gone {
			t.Fatal(err)
		}
		if *mark != was {
			t.Errorf("the mark of what was in flight is %#x", *mark)
		}
		if err := rec.Close(); err != nil {
			t.Fatal(err)
		}
		if gone {
			unfit.nextIsServed()
			continue
		}
		done := make([]*frontend.Request, 1)
		if n, err := g.Queue(0).Poll(done); n != 0 || err != nil {
			t.Fatalf("it has answered %d, %v", n, err)
		}
		unfit.close()

		next := newRig(t, unfit.path, 2)
		session, err := vhostuser.ResumeSession(s.take(t), next.dev, vhostuser.Options{Store: s.keep()})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- session.Run() }()
		for i, r := range []*frontend.Request{reset, write} {
			if n, err := g.Queue(i).Wait(done); n != 1 || err != nil || done[0] != r || r.Status != driver.StatusOK {
				t.Errorf("queue %d: %d are done, %v: %s", i, n, err, driver.StatusString(r.Status))
			}
		}
		if write.AppendSector != smallZones.ZoneSectors {
			t.Errorf("the append is at sector %d", write.AppendSector)
		}
		if err := errors.Join(g.Close(), <-ended); err != nil {
			t.Error(err)
		}
		if len(s) != 0 {
			t.Errorf("still kept: %v", s)
		}
	}
}
