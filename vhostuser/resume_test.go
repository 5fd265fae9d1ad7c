package vhostuser

import (
	"errors"
	"strings"
	"testing"
)

// rest has the session end as one does whose process hands over.
func (p *peer) rest() {
	p.t.Helper()
	p.s.Suspend()
	if err := <-p.done; err != nil {
		p.t.Fatal(err)
	}
}

// leaves fails unless dev does not go on with the session, for a reason with words in
// it, and leaves it to another process.
func (p *peer) leaves(store *shelf, dev *fakeDevice, words string) {
	p.t.Helper()
	was := len(store.fds)
	_, err := ResumeSession(store.kept(p.t), dev, Options{Keep: store.keep()})
	if !errors.As(err, new(UnfitError)) || !strings.Contains(err.Error(), words) || len(store.fds) != was {
		p.t.Fatalf("%v, and of %d descriptors %d are kept; want %q", err, was, len(store.fds), words)
	}
}

// goesOn has dev go on with the session.
func (p *peer) goesOn(store *shelf, dev *fakeDevice) {
	p.t.Helper()
	s, err := ResumeSession(store.kept(p.t), dev, Options{Keep: store.keep()})
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
