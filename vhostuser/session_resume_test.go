package vhostuser

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/handover"
)

// rest has the session end as one does whose process hands over.
func (p *peer) rest() {
	p.t.Helper()
	p.s.Suspend()
	if err := <-p.done; err != nil {
		p.t.Fatal(err)
	}
}

// keptRing is a keptPeer with a new store, whose ring 0 is set up and, if started, runs.
func keptRing(t *testing.T, dev *fakeDevice, started bool) (*shelf, *peer) {
	t.Helper()
	store := &shelf{fds: map[string]int{}}
	p := keptPeer(t, store, dev)
	p.negotiate()
	p.setUp(0)
	if started {
		p.kick(0)
	}
	return store, p
}

// leaves fails unless dev does not go on with the session, for a reason with words in
// it, and leaves it to another process.
func (p *peer) leaves(store *shelf, dev *fakeDevice, words string) {
	p.t.Helper()
	was := len(store.fds)
	_, err := ResumeSession(store.kept(p.t), dev, Options{Store: store.keep()})
	if !errors.As(err, new(handover.UnfitError)) || !strings.Contains(err.Error(), words) || len(store.fds) != was {
		p.t.Fatalf("%v, and of %d descriptors %d are kept; want %q", err, was, len(store.fds), words)
	}
}

// goesOn has dev go on with the session.
func (p *peer) goesOn(store *shelf, dev *fakeDevice) {
	p.t.Helper()
	s, err := ResumeSession(store.kept(p.t), dev, Options{Store: store.keep()})
	if err != nil {
		p.t.Fatal(err)
	}
	p.dev = dev
	p.run(s)
}

// A device that cannot work with what the driver has taken does not go on; one that
// could not before either does.
func TestResumedFeatures(t *testing.T) {
	store := &shelf{fds: map[string]int{}}
	p := keptPeer(t, store, new(fakeDevice))
	p.negotiate()
	p.rest()
	p.leaves(store, &fakeDevice{refuse: errors.New("not like that")}, "not like that")
	p.goesOn(store, new(fakeDevice))
	p.tells("features 0x100020000")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}

	refuses := func() *fakeDevice { return &fakeDevice{refuse: errors.New("not like that")} }
	p = keptPeer(t, store, refuses())
	p.send(SetFeatures, AppendU64(nil, needed))
	p.tells("features 0x100020000")
	p.over(store, refuses())
	p.tells("features 0x100020000")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A queue that does not start at the moment (no engine is to be had, the disk is in use)
// does not cost the session: a later process goes on.
func TestResumedRingDoesNotStart(t *testing.T) {
	store, p := keptRing(t, new(fakeDevice), true)
	p.rest()
	p.leaves(store, &fakeDevice{noStart: errors.New("no engine")}, "ring 0 does not start: no engine")
	p.goesOn(store, new(fakeDevice))
	p.tells("features 0x100020000; start 0 at 7")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A ring that was refused stands still in the next process as well, until the front-end
// says something about it; when it has started, whoever comes next has to start it.
func TestResumedRingThatWasRefused(t *testing.T) {
	cannot := func() *fakeDevice { return &fakeDevice{noStart: errors.New("no engine")} }
	store, p := keptRing(t, cannot(), false)
	if p.ask(SetVringKick, VringFile{Index: 0}.Append(nil), eventFD(t)) {
		t.Fatal("taken")
	}
	p.tells("features 0x100020000; no start 0")
	for range 2 {
		p.over(store, new(fakeDevice))
		p.tells("features 0x100020000")
	}
	p.kick(0)
	p.tells("start 0 at 7")
	p.rest()
	p.leaves(store, cannot(), "ring 0 does not start")
	p.goesOn(store, new(fakeDevice))
	p.tells("features 0x100020000; start 0 at 7")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// So does one whose set-up makes no sense, here with a used ring that is to be logged
// where the log has no place for it. Others go on.
func TestResumedRingThatMakesNoSense(t *testing.T) {
	store, p := keptRing(t, new(fakeDevice), true)
	p.call(SetLogBase, LogArea{64, 0}.Append(nil), memFD(t, 4096)) // of 2 MiB
	p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol|FeatureLogAll))
	p.must(SetVringNum, VringState{1, 64}.Append(nil))
	a := ringAddr(1)
	a.Flags, a.Log = VringLog, 1<<40
	p.must(SetVringAddr, a.Append(nil))
	p.must(SetVringEnable, VringState{1, 1}.Append(nil))
	if p.ask(SetVringKick, VringFile{Index: 1}.Append(nil), eventFD(t)) {
		t.Fatal("taken")
	}
	p.over(store, new(fakeDevice))
	p.tells("features 0x100020000; start 0 at 7")
	a.Log = 0
	p.must(SetVringAddr, a.Append(nil))
	p.tells("start 1 at 0")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// killed has a process with dev go on with the session, and die over a message to start
// ring 0: after the commit that comes before the start. begun says that the ring's worker
// had begun by then.
func (p *peer) killed(store *shelf, dev *fakeDevice, flags uint32, begun bool) {
	p.t.Helper()
	s, err := ResumeSession(store.kept(p.t), dev, Options{Store: store.keep()})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.conn.Write(SetVringKick, Version|flags, VringFile{Index: 0}.Append(nil), eventFD(p.t)); err != nil {
		p.t.Fatal(err)
	}
	m := new(Message)
	defer m.Close()
	if s.saver.Pieces, err = s.conn.readAhead(m); err != nil {
		p.t.Fatal(err)
	}
	if err := s.saver.Save(m.Files[0]); err != nil {
		p.t.Fatal(err)
	}
	s.saver.Reply, s.saver.Committed = nil, false
	_ = s.serve(m) // what comes of it is not committed
	if begun {
		r := dev.ring(0)
		if _, _, err := r.Record.Begin(r.Start(), 0); err != nil {
			p.t.Fatal(err)
		}
	}
	s.suspended.Store(true) // it drops nothing
	s.end()
}

// A process that was killed between the commit that says that a ring starts and the one
// that says that it did not has refused nothing: the next one does, with the answer that
// it would have given, where it cannot start the ring either.
func TestKilledBeforeItRefused(t *testing.T) {
	cannot := func() *fakeDevice { return &fakeDevice{noStart: errors.New("no engine")} }
	asks := func() (*shelf, *peer) {
		store, p := keptRing(t, new(fakeDevice), false)
		p.rest()
		return store, p
	}
	for _, can := range []bool{true, false} {
		store, p := asks()
		p.killed(store, cannot(), FlagNeedReply, false)
		dev, told, want := new(fakeDevice), "start 0 at 7", uint64(0)
		if !can {
			dev, told, want = cannot(), "no start 0", 1
		}
		p.goesOn(store, dev)
		if v, err := ParseU64(p.answer(SetVringKick)); err != nil || v != want {
			t.Errorf("answered %d, %v; want %d", v, err, want)
		}
		p.tells("features 0x100020000; " + told)
		p.rest()
		if can { // from here on it is one that runs
			p.leaves(store, cannot(), "ring 0 does not start")
			p.goesOn(store, new(fakeDevice))
			p.tells("features 0x100020000; start 0 at 7")
		} else {
			p.goesOn(store, new(fakeDevice))
			p.tells("features 0x100020000")
			p.kick(0)
			p.tells("start 0 at 7")
		}
		if err := p.leave(); err != nil {
			t.Fatal(err)
		}
	}

	// Without an answer to say it in the session ends, as it would have.
	store, p := asks()
	p.killed(store, cannot(), 0, false)
	_, err := ResumeSession(store.kept(t), cannot(), Options{Store: store.keep()})
	if err == nil || errors.As(err, new(handover.UnfitError)) || !strings.Contains(err.Error(), "ring 0 does not start: no engine") || len(store.fds) != 0 {
		t.Errorf("%v, and %d descriptors are kept", err, len(store.fds))
	}
	_ = p.conn.Close()
	p.m.Close()

	// A ring that ran, when the message came or since, is for a process that can start it.
	store, p = asks()
	p.killed(store, new(fakeDevice), FlagNeedReply, true)
	p.leaves(store, cannot(), "ring 0 does not start")
	p.goesOn(store, new(fakeDevice))
	p.answer(SetVringKick)
	p.rest()
	p.killed(store, new(fakeDevice), FlagNeedReply, false) // stopped, and about to start anew
	p.leaves(store, cannot(), "ring 0 does not start")
	p.goesOn(store, new(fakeDevice))
	p.answer(SetVringKick)
	p.tells("features 0x100020000; start 0 at 7")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// Nor does a process that has no descriptor left cost the session.
func TestResumeWithoutDescriptors(t *testing.T) {
	store := &shelf{fds: map[string]int{}}
	p := keptPeer(t, store, new(fakeDevice))
	p.negotiate()
	p.rest()
	kept := store.kept(t)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	none := was
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	n := len(store.fds)
	_, err := ResumeSession(kept, new(fakeDevice), Options{Store: store.keep()})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if !errors.As(err, new(handover.UnfitError)) || len(store.fds) != n {
		t.Errorf("%v, and of %d descriptors %d are kept", err, n, len(store.fds))
	}
	p.goesOn(store, new(fakeDevice))
	p.tells("features 0x100020000")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A dirty log that the front-end takes away while the next process marks all in it ends
// that session, and not the process, which would be started again and again.
func TestResumedLogGoesAway(t *testing.T) {
	store, p := keptRing(t, new(fakeDevice), true)
	log := memFD(t, 4096)
	p.call(SetLogBase, LogArea{64, 0}.Append(nil), log)
	p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol|FeatureLogAll))
	p.rest()
	dev := &fakeDevice{adopting: func() {
		if err := unix.Ftruncate(log, 0); err != nil {
			t.Error(err)
		}
	}}
	_, err := ResumeSession(store.kept(t), dev, Options{Store: store.keep()})
	if err == nil || errors.As(err, new(handover.UnfitError)) || !strings.Contains(err.Error(), "the dirty log: its memory is not there") {
		t.Error(err)
	}
	if len(store.fds) != 0 {
		t.Errorf("still kept: %v", store.fds)
	}
	_ = p.conn.Close()
}

// Every ring that runs in a session that is kept has a record: without one the next
// process would begin it where it was begun, and do again all that was done since. So a
// ring that the front-end's own record has no place for is refused.
func TestKeptRingWithoutARecord(t *testing.T) {
	store := &shelf{fds: map[string]int{}}
	p := keptPeer(t, store, &fakeDevice{progress: 3})
	p.negotiate()
	p.call(GetInflightFD, InflightArea{Queues: 1, QueueSize: 64}.Append(nil))
	p.setUp(0)
	p.kick(0)
	p.must(SetVringNum, VringState{1, 64}.Append(nil))
	p.must(SetVringAddr, ringAddr(1).Append(nil))
	p.must(SetVringEnable, VringState{1, 1}.Append(nil))
	kick := VringFile{Index: 1}.Append(nil)
	if p.ask(SetVringKick, kick, eventFD(t)) {
		t.Error("taken")
	}
	p.tells("features 0x100020000; start 0 at 7")
	p.over(store, new(fakeDevice))
	p.tells("features 0x100020000; start 0 at 7")
	if r := p.dev.ring(0); r.Record == nil {
		t.Error("ring 0 has no record")
	}
	// With a record for both it starts.
	p.call(GetVringBase, VringState{0, 0}.Append(nil))
	p.call(GetInflightFD, InflightArea{Queues: 2, QueueSize: 64}.Append(nil))
	p.must(SetVringKick, kick, eventFD(t))
	p.tells("stop 0 at 7; start 1 at 0")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}

	// Nobody goes on with a session that is not kept.
	p = connect(t, new(fakeDevice))
	p.negotiate()
	p.call(GetInflightFD, InflightArea{Queues: 1, QueueSize: 64}.Append(nil))
	p.setUp(1)
	p.kick(1)
	p.tells("features 0x100020000; start 1 at 7")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// Where the front-end is gone, no process that fits is waited for: the next front-end is
// let in.
func TestUnfitWithoutAFrontEnd(t *testing.T) {
	store, p := keptRing(t, new(fakeDevice), true)
	p.rest()
	unfit := &fakeDevice{noStart: errors.New("no engine")}
	p.leaves(store, unfit, "ring 0 does not start: no engine")
	_ = p.conn.hangUp() // Close leaves the last descriptor to another thread
	p.m.Close()
	_, err := ResumeSession(store.kept(t), unfit, Options{Store: store.keep()})
	if err == nil || errors.As(err, new(handover.UnfitError)) || !strings.Contains(err.Error(), "its front-end is gone") || len(store.fds) != 0 {
		t.Errorf("%v, and %d descriptors are kept", err, len(store.fds))
	}
}
