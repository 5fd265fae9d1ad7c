package vduse

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A diary is a device that notes what a session does to it, and carries out nothing.
type diary struct {
	notes   []string
	started func() // called by StartQueue
}

func (d *diary) note(format string, args ...any) {
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

func (d *diary) Features() uint64               { return plainFeatures }
func (d *diary) SetFeatures(acked uint64) error { d.note("features %#x", acked); return nil }
func (d *diary) Queues() int                    { return 2 }
func (d *diary) BeginFrontEnd()                 { d.note("begin front-end") }
func (d *diary) ReadConfig([]byte, uint32) error {
	return nil
}
func (d *diary) WriteConfig([]byte, uint32) error { return nil }
func (d *diary) SaveState() []byte                { return nil }
func (d *diary) LoadState([]byte) error           { return nil }
func (d *diary) Watch(func() bool)                {}
func (d *diary) ShowQueues(int)                   {}
func (d *diary) BeginRing(usedBefore bool)        { d.note("ring, used before: %v", usedBefore) }
func (d *diary) StartQueue(i int, r transport.Ring) error {
	d.note("start %d at %d, life %d, held: %v", i, r.Base, r.Life, r.Held)
	if d.started != nil {
		d.started()
	}
	return nil
}
func (d *diary) Serve()        { d.note("serve") }
func (d *diary) BeginStop(int) {}
func (d *diary) StopQueue(i int, _ string) uint32 {
	d.note("stop %d", i)
	return uint32(5 + i)
}
func (d *diary) Abandon(bool)                {}
func (d *diary) Notify(int, int, int)        {}
func (d *diary) Release() error              { return nil }
func (d *diary) Adopt(r *inflight.Record)    { d.note("adopt: %v", r != nil) }
func (d *diary) Leave()                      { d.note("leave") }
func (d *diary) State() (is, choices uint64) { return 3, 4 }
func (d *diary) Restore(is, choices uint64) error {
	d.note("restore %d, %d", is, choices)
	return nil
}
func (d *diary) NeedsReset() bool { return false }
func (d *diary) Reset()           { d.note("reset") }

// A process is killed between any two steps of a start: what it has stored by then has the next
// one go on with the rings as they are, once the first one has started, and with nothing of
// theirs in flight before.
func TestKilledWhileItStarts(t *testing.T) {
	h := &host{t: t, dir: t.TempDir()}
	g := newGuest(t, 2)
	var stored [][]byte
	snapshot := func() {
		b, err := os.ReadFile(statePath(h.dir, "one"))
		if err != nil {
			t.Error(err)
		}
		stored = append(stored, b)
	}
	dev := &diary{started: snapshot}
	h.path = ""
	first := h.serveDevice(g.open(), dev, false)
	g.begin(plainFeatures, 0)
	snapshot() // and the message is answered
	g.mu.Lock()
	queues := slices.Clone(g.queues)
	g.mu.Unlock()
	first.leave(t)
	last, err := os.ReadFile(statePath(h.dir, "one"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"stop 0", "stop 1", "reset", "begin front-end"}; !slices.Equal(dev.notes[len(dev.notes)-4:], want) {
		t.Errorf("the end: %q", dev.notes)
	}
	if len(stored) != 3 {
		t.Fatalf("%d snapshots", len(stored))
	}
	resume := func(b []byte) []string {
		if err := os.WriteFile(statePath(h.dir, "one"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		g.queues = queues
		next := &diary{}
		p := h.serveDevice(g.open(), next, true)
		g.ask(Request{Type: SetStatus, Status: 15}) // that was not answered, or comes once more
		p.stop()
		if err := <-p.end; err != nil {
			t.Fatal(err)
		}
		return next.notes
	}
	features := fmt.Sprintf("features %#x", plainFeatures&^featureAccessPlatform)
	for i, b := range stored {
		want := []string{features, "restore 3, 4", "adopt: true", "ring, used before: false", "ring, used before: false",
			"start 0 at 0, life 1, held: true", "start 1 at 0, life 1, held: true", "serve", "stop 0", "stop 1", "reset", "begin front-end"}
		if got := resume(b); !slices.Equal(got, want) {
			t.Errorf("killed after step %d: %q, want %q", i, got, want)
		}
	}
	// One that has ended by itself leaves rings that go on where it has stopped them, in a new life.
	want := []string{features, "restore 3, 4", "adopt: true", "ring, used before: false", "ring, used before: false",
		"start 0 at 5, life 2, held: true", "start 1 at 6, life 2, held: true", "serve", "stop 0", "stop 1", "reset", "begin front-end"}
	if got := resume(last); !slices.Equal(got, want) {
		t.Errorf("left by itself: %q, want %q", got, want)
	}
}

// A process that cannot start the rings of the one before leaves everything as it is.
func TestCannotGoOn(t *testing.T) {
	h := &host{t: t, dir: t.TempDir()}
	g := newGuest(t, 2)
	first := h.serveDevice(g.open(), new(diary), false)
	g.begin(plainFeatures, 0)
	first.leave(t)
	was, err := os.ReadFile(statePath(h.dir, "one"))
	if err != nil {
		t.Fatal(err)
	}
	g.memory = nil
	next := new(diary)
	p := h.serveDevice(g.open(), next, true)
	if err := <-p.end; err == nil {
		t.Error("it goes on without memory")
	}
	if now, err := os.ReadFile(statePath(h.dir, "one")); err != nil || string(now) != string(was) {
		t.Errorf("what is stored has changed: %v", err)
	}
	if got := next.notes[2:]; !slices.Equal(got, []string{"leave", "reset", "begin front-end"}) {
		t.Errorf("%q", got)
	}
}
