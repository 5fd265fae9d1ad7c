package vhostuser

import (
	"testing"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/handover"
	"github.com/zvhost/zvhost/vhostuser/inflight"
)

// Which rings are said to have been used before: those that begin in midstream and were not
// stopped there by this session.
func TestRingsUsedBefore(t *testing.T) {
	start := func(p *peer, base uint32) {
		p.must(SetVringBase, VringState{0, base}.Append(nil))
		p.kick(0)
	}
	stop := func(p *peer) { p.call(GetVringBase, VringState{0, 0}.Append(nil)) }
	reset := func(p *peer) {
		p.must(ResetDevice, nil)
		p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol))
		p.must(SetVringNum, VringState{0, 64}.Append(nil))
		p.must(SetVringAddr, ringAddr(0).Append(nil))
		p.must(SetVringEnable, VringState{0, 1}.Append(nil))
	}
	for name, c := range map[string]struct {
		play func(p *peer)
		want int
	}{
		"begins":                    {func(p *peer) { start(p, 0) }, 0},
		"midstream":                 {func(p *peer) { start(p, 3) }, 1},
		"goes on":                   {func(p *peer) { start(p, 0); stop(p); start(p, 5) }, 0},
		"goes on, midstream":        {func(p *peer) { start(p, 3); stop(p); start(p, 8) }, 1},
		"goes on elsewhere":         {func(p *peer) { start(p, 0); stop(p); start(p, 6) }, 1},
		"begins again":              {func(p *peer) { start(p, 0); stop(p); start(p, 0) }, 0},
		"begins after a reset":      {func(p *peer) { start(p, 0); stop(p); reset(p); start(p, 0) }, 0},
		"goes on after a reset":     {func(p *peer) { start(p, 0); stop(p); reset(p); start(p, 5) }, 1},
		"pauses for a moment":       {func(p *peer) { start(p, 0); p.must(SetVringAddr, ringAddr(0).Append(nil)) }, 0},
		"stands still for a moment": {func(p *peer) { start(p, 3); p.must(SetVringAddr, ringAddr(0).Append(nil)) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, &fakeDevice{progress: 5})
			p.negotiate()
			p.setUp(0)
			c.play(p)
			p.call(GetFeatures, nil)
			if p.dev.mu.Lock(); p.dev.usedBefore != c.want {
				t.Errorf("%d starts of rings that were used before, want %d", p.dev.usedBefore, c.want)
			}
			p.dev.mu.Unlock()
			if err := p.leave(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A record that the front-end brings along says so, whatever SET_VRING_BASE names.
func TestRingsUsedBeforeByRecord(t *testing.T) {
	for _, life := range []uint64{0, 9} {
		rec, err := inflight.New(1, 64)
		if err != nil {
			t.Fatal(err)
		}
		if life != 0 {
			if _, _, err := rec.Ring(0).Begin(inflight.Start{Size: 64, Life: life}, 0); err != nil {
				t.Fatal(err)
			}
		}
		p := connect(t, new(fakeDevice))
		p.negotiate()
		p.must(SetInflightFD, InflightArea{Bytes: uint64(inflight.Bytes(1, 64)), Queues: 1, QueueSize: 64}.Append(nil), rec.FD())
		p.setUp(0)
		p.must(SetVringBase, VringState{0, 0}.Append(nil))
		p.kick(0)
		p.call(GetFeatures, nil)
		if p.dev.mu.Lock(); (p.dev.usedBefore == 1) != (life != 0) {
			t.Errorf("life %d: %d", life, p.dev.usedBefore)
		}
		p.dev.mu.Unlock()
		if err := p.leave(); err != nil {
			t.Fatal(err)
		}
		if err := rec.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What the device remembers goes to the next process, and so does that a ring is where
// this session has stopped it.
func TestChoicesAreKept(t *testing.T) {
	store, dev := &shelf{fds: map[string]int{}}, &fakeDevice{choices: 1 << 63, progress: 5}
	p := keptPeer(t, store, dev)
	p.negotiate()
	p.setUp(0)
	p.must(SetVringBase, VringState{0, 0}.Append(nil))
	p.kick(0)
	p.call(GetVringBase, VringState{0, 0}.Append(nil))
	next := new(fakeDevice)
	p.over(store, next)
	p.must(SetVringBase, VringState{0, 5}.Append(nil))
	p.kick(0)
	p.call(GetFeatures, nil)
	if next.mu.Lock(); next.choices != 1<<63 || next.usedBefore != 0 {
		t.Errorf("choices %#x, %d rings used before", next.choices, next.usedBefore)
	}
	next.mu.Unlock()
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// The state of an older zvhost is read without what that did not know.
func TestOldStateIsRead(t *testing.T) {
	store, dev := &shelf{fds: map[string]int{}}, &fakeDevice{choices: 1 << 63}
	p := keptPeer(t, store, dev)
	p.negotiate()
	p.setUp(0)
	p.kick(0)
	p.call(GetFeatures, nil)
	p.s.Suspend()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	kept := store.kept(t)
	j, b, err := handover.OpenJournal(foreign.NewFD(dupOf(t, kept[handover.JournalName].Int())))
	if err != nil {
		t.Fatal(err)
	}
	// Version 1: no choices, named and shown, which stand behind the answer, pieces, the descriptor that
	// goes with it, and five words.
	at := replyAt + int(le.Uint32(b[4:]))
	at += 4 + 4*int(le.Uint32(b[at:])) + 8 + 5*8
	if le.Uint64(b[at:]) != 1<<63 {
		t.Fatal("there are no choices")
	}
	// Nor is there a message at hand: that was taken, and this commit would say that it was not.
	words := at - 6*8
	old := append(le.AppendUint32(nil, stateVersionOld), make([]byte, 2*4)...)
	old = append(append(old, b[words:at]...), b[at+3*8:]...)
	if err := j.Commit(old); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	next := &fakeDevice{choices: 7}
	s, err := ResumeSession(kept, next, Options{Store: store.keep()})
	if err != nil {
		t.Fatal(err)
	}
	p.dev = next
	p.run(s)
	p.tells("features 0x100020000; start 0 at 7")
	if next.mu.Lock(); next.choices != 0 {
		t.Errorf("choices %#x", next.choices)
	}
	next.mu.Unlock()
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}
