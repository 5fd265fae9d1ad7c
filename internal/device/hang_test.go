package device

import (
	"strings"
	"testing"
	"time"

	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/control"
	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/internal/testlog"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// hanging is a front-end with an append in flight that the disk does not answer until
// the gate is opened.
func hanging(t *testing.T, queues int) (*rig, *guest, *gate) {
	t.Helper()
	r := zonedRig(t, smallZones, queues)
	r.dev.patience = time.Millisecond
	gate := r.newGate()
	g := r.connect(frontend.Options{Queues: queues})
	gate.shut.Store(true)
	send(g, driver.TypeZoneAppend, 128, 4096)
	gate.wait(1)
	return r, g, gate
}

// While a disk does not answer, all is answered that has no need of it: what the device
// is, and messages that change nothing that the request in flight stands on.
func TestDiskThatHangsHoldsUpNothingElse(t *testing.T) {
	r, g, gate := hanging(t, 2)
	c := g.Client
	for _, ask := range []struct {
		name string
		do   func() error
	}{
		{"GET_FEATURES", func() error { return firstOf(c.Features()) }},
		{"GET_CONFIG", func() error { return firstOf(c.Config(0, 60)) }},
		{"SET_CONFIG", func() error { return c.SetConfig(driver.WritebackOffset, []byte{0}) }},
		{"SET_VRING_CALL", func() error { return c.SetVringCall(0, g.Queue(0).CallFD()) }},
		{"SET_VRING_CALL none", func() error { return c.SetVringCall(0, -1) }},
		{"SET_VRING_ERR", func() error { return c.SetVringErr(0, newEventFD(t)) }},
		{"GET_VRING_BASE of another ring", func() error { return firstOf(g.Queue(1).Stop()) }},
		{"SET_VRING_KICK of another ring", func() error { return g.Queue(1).Start(0) }},
	} {
		if err := ask.do(); err != nil {
			t.Errorf("%s: %v", ask.name, err)
		}
	}
	if err := c.SetVringCall(0, g.Queue(0).CallFD()); err != nil {
		t.Fatal(err)
	}
	// And what an operator asks for.
	path := t.TempDir() + "/ctl"
	ctl := r.control(path)
	if _, err := control.Call(path, control.Request{Command: control.FaultList}); err != nil {
		t.Error(err)
	}
	if _, err := control.Call(path, control.Request{Command: control.Resize}); err == nil {
		t.Error("a zoned disk grows")
	}
	ctl.close()
	if r.disk.ReportZone(1).State != zone.ImpOpen && r.disk.ReportZone(1).State != zone.Empty {
		t.Error("the append has landed")
	}
	gate.open()
	done := make([]*frontend.Request, 1)
	if n, err := g.Queue(0).Wait(done); n != 1 || err != nil || done[0].Status != driver.StatusOK {
		t.Errorf("%d are done, %v", n, err)
	}
	g.leave()
}

// What must not happen while a request is in flight waits for it, and the log says what
// waits, and for how many.
func TestDiskThatHangs(t *testing.T) {
	for name, c := range map[string]struct {
		who string
		do  func(g *guest) error
	}{
		"stop":    {"GET_VRING_BASE", func(g *guest) error { return firstOf(g.Queue(0).Stop()) }},
		"disable": {"SET_VRING_ENABLE", func(g *guest) error { return g.Client.SetVringEnable(0, false) }},
		"reset":   {"RESET_DEVICE", func(g *guest) error { return g.Client.ResetDevice() }},
		"memory":  {"SET_MEM_TABLE", func(g *guest) error { return g.Client.SetMemTable(g.Memory.Region) }},
		"leave":   {"the end of the front-end's session", func(g *guest) error { return nil }},
		"SIGTERM": {"the end of the daemon", func(g *guest) error { g.r.session.Close(); return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			r, g, gate := hanging(t, 1)
			answered := make(chan error, 1)
			go func() { answered <- c.do(g) }()
			if name == "leave" {
				if err := <-answered; err != nil {
					t.Error(err)
				}
				if err := g.Abandon(); err != nil {
					t.Error(err)
				}
			}
			r.book.Wait(1, "queue 0: "+c.who+" waits for")
			if line := r.book.String(); !strings.Contains(line, "waits for 1 request that the disk has not answered for 1ms") &&
				!strings.Contains(line, "waits for requests that") { // the worker had not come to its sleep yet
				t.Error(line)
			}
			gate.open()
			if name != "leave" {
				if err := <-answered; err != nil {
					t.Error(err)
				}
				if err := g.Abandon(); err != nil {
					t.Error(err)
				}
			}
			if err := <-g.ended; err != nil {
				t.Error(err)
			}
			r.nextIsServed()
		})
	}
}

// What else waits for a disk says so as well, where it takes long.
func TestLate(t *testing.T) {
	log, book := testlog.New()
	done := logging.WarnLate(log, time.Millisecond, "the end of the daemon")
	book.Wait(1, "the end of the daemon waits for the disk, which has not answered for 1ms")
	done()
	logging.WarnLate(log, time.Hour, "something")()
}
