package vduse

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/transport"
)

const (
	zonedFeatures = featureAccessPlatform | driver.FeatureVersion1 | driver.BlkZoned | driver.BlkFlush
	plainFeatures = featureAccessPlatform | driver.FeatureVersion1 | driver.BlkFlush
)

// A process serves a device until it is stopped.
type process struct {
	stop context.CancelFunc
	end  chan error
}

// serve has this process make or resume the session.
func (h *host) serve(k Kernel, resume bool, opt Options) *process {
	h.t.Helper()
	return h.run(k, h.dev, resume, opt)
}

// serveDevice is serve with another device.
func (h *host) serveDevice(k Kernel, dev transport.Device, resume bool) *process {
	h.t.Helper()
	return h.run(k, dev, resume, h.options())
}

func (h *host) run(k Kernel, dev transport.Device, resume bool, opt Options) *process {
	h.t.Helper()
	var s *Session
	var err error
	if resume {
		s, err = Resume(k, dev, h.dir, "one", opt)
	} else {
		s, err = New(k, dev, h.dir, "one", 256, opt)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{cancel, make(chan error, 1)}
	go func() { p.end <- s.Run(ctx) }()
	return p
}

func (p *process) leave(t testing.TB) {
	t.Helper()
	p.stop()
	if err := <-p.end; err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, what string, got, want byte) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %s, and not %s", what, driver.StatusString(got), driver.StatusString(want))
	}
}

// A driver uses a zoned disk: the memory of its data is there from the first request on only.
func TestZonedDisk(t *testing.T) {
	for name, features := range map[string]uint64{"split": 0, "packed": driver.FeatureRingPacked, "events": driver.FeatureEventIdx} {
		t.Run(name, func(t *testing.T) {
			h, g := zonedHost(t, 2), newGuest(t, 2)
			p := h.serve(g.open(), false, h.options())
			if g.begin(zonedFeatures|features, 0) {
				t.Fatalf("DRIVER_OK is refused: %q", h.log)
			}
			for i := range 20 {
				status, at, _ := g.do(i%2, driver.TypeZoneAppend, 128, fill(2, byte(i)))
				want(t, "append", status, driver.StatusOK)
				if at != uint64(128+2*i) {
					t.Fatalf("append %d went to sector %d", i, at)
				}
			}
			status, _, got := g.do(1, driver.TypeIn, 130, make([]byte, 2*sector))
			want(t, "read", status, driver.StatusOK)
			if !bytes.Equal(got, fill(2, 1)) {
				t.Fatal("what was read is not what was written")
			}
			status, _, _ = g.do(0, driver.TypeOut, 131, fill(1, 0))
			want(t, "write below the write pointer", status, driver.StatusZoneUnalignedWP)
			// Nobody leaves a kernel with a device that does not answer: it is reset first.
			g.setStatus(0)
			p.leave(t)
		})
	}
}

// FEATURES_OK does not stick where the device cannot work like that.
func TestRefusesFeatures(t *testing.T) {
	h, g := zonedHost(t, 1), newGuest(t, 1)
	p := h.serve(g.open(), false, h.options())
	if !g.begin(plainFeatures, 0) || g.status != 3 {
		t.Errorf("a driver that knows no zones gets status %#x", g.status)
	}
	if !g.begin(zonedFeatures|1<<50, 0) || !h.logged("were not offered") {
		t.Errorf("features that were not offered are accepted: %q", h.log)
	}
	p.leave(t)
}

// What is offered is what the kernel accepts.
func TestFeatures(t *testing.T) {
	h := plainHost(t, 1)
	f := Features(h.dev)
	if f&featureAccessPlatform == 0 || f&featureBlkConfigWCE != 0 || h.dev.Features()&featureBlkConfigWCE == 0 {
		t.Fatalf("features %#x of %#x", f, h.dev.Features())
	}
}

// After a reset the rings of the next driver are other memory at the same addresses, and the
// kernel says nothing about it.
func TestMemoryAfterReset(t *testing.T) {
	h, g := plainHost(t, 1), newGuest(t, 1)
	p := h.serve(g.open(), false, h.options())
	for i := range 4 {
		if g.begin(plainFeatures, i%2) {
			t.Fatalf("DRIVER_OK is refused: %q", h.log)
		}
		status, _, _ := g.do(0, driver.TypeOut, uint64(i), fill(1, byte(i)))
		want(t, "write", status, driver.StatusOK)
	}
	g.setStatus(0)
	p.leave(t)
}

// UPDATE_IOTLB: memory is replaced under a ring that runs.
func TestUpdateMemory(t *testing.T) {
	h, g := plainHost(t, 1), newGuest(t, 1)
	p := h.serve(g.open(), false, h.options())
	g.begin(plainFeatures, 0)
	for i := range 10 {
		status, _, _ := g.do(0, driver.TypeOut, uint64(i), fill(1, byte(i)))
		want(t, "write", status, driver.StatusOK)
		g.mu.Lock()
		looked, all := g.lookups, g.memory
		if i == 4 { // and for a moment there is none
			g.memory = nil
		}
		g.mu.Unlock()
		if a := g.ask(Request{Type: UpdateIOTLB, Start: 0, Last: lastAddr}); a.Failed {
			t.Fatalf("UPDATE_IOTLB fails: %q", h.log)
		}
		g.mu.Lock()
		if g.lookups == looked {
			t.Error("memory that was taken back is used further")
		}
		g.memory = all
		g.mu.Unlock()
		if i == 4 {
			if a := g.ask(Request{Type: UpdateIOTLB, Start: ringsAt, Last: ringsAt}); a.Failed || !h.logged("wait for other memory") {
				t.Fatalf("UPDATE_IOTLB fails: %q", h.log)
			}
		}
	}
	if a := g.ask(Request{Type: UpdateIOTLB, Start: 2, Last: 1}); !a.Failed {
		t.Error("a range that ends before it begins is accepted")
	}
	looked := g.lookups
	if a := g.ask(Request{Type: UpdateIOTLB, Start: 1 << 40, Last: 1 << 41}); a.Failed || g.lookups != looked {
		t.Error("rings are stopped for memory that they do not use")
	}
	g.setStatus(0)
	p.leave(t)
}

// GET_VQ_STATE answers where the ring goes on, with nothing in flight.
func TestQueueState(t *testing.T) {
	for _, features := range []uint64{0, driver.FeatureRingPacked} {
		h, g := plainHost(t, 1), newGuest(t, 1)
		p := h.serve(g.open(), false, h.options())
		g.begin(plainFeatures|features, 0)
		for i := range 70 { // more than once around the ring
			status, _, _ := g.do(0, driver.TypeOut, uint64(i), fill(1, byte(i)))
			want(t, "write", status, driver.StatusOK)
			if i%23 != 0 {
				continue
			}
			a := g.ask(Request{Type: GetVQState, Queue: 0})
			if got := a.State.base(features != 0); a.Failed || got != g.rings[0].Base() {
				t.Fatalf("after %d requests the ring goes on at %#x, and not at %#x", i+1, got, g.rings[0].Base())
			}
		}
		if a := g.ask(Request{Type: GetVQState, Queue: 1}); !a.Failed {
			t.Error("there is a queue 1")
		}
		if a := g.ask(Request{Type: 3}); !a.Failed {
			t.Error("an unknown message is accepted")
		}
		g.setStatus(0)
		p.leave(t)
	}
}

// One process leaves the device to the next, with requests that wait meanwhile.
func TestNextProcess(t *testing.T) {
	for _, features := range []uint64{0, driver.FeatureRingPacked} {
		h, g := zonedHost(t, 2), newGuest(t, 2)
		p := h.serve(g.open(), false, h.options())
		g.begin(zonedFeatures|features, 0)
		for i := range 8 {
			status, _, _ := g.do(i%2, driver.TypeZoneAppend, 0, fill(1, byte(i)))
			want(t, "append", status, driver.StatusOK)
			p.leave(t)
			h.closeDevice()
			h.openDevice(2)
			b := g.send(0, driver.TypeZoneAppend, 128, fill(1, byte(i)))
			p = h.serve(g.open(), true, h.options())
			status, at := g.wait(0, b)
			want(t, "append that nobody served", status, driver.StatusOK)
			if at != uint64(128+i) {
				t.Fatalf("append %d went to sector %d", i, at)
			}
		}
		g.setStatus(0)
		p.leave(t)
	}
}

// A message that a process has read and not answered comes again.
func TestMessageAcrossProcesses(t *testing.T) {
	h, g := plainHost(t, 1), newGuest(t, 1)
	s, err := New(g.open(), h.dev, h.dir, "one", 256, h.options())
	if err != nil {
		t.Fatal(err)
	}
	// It dies before it has answered, and before or after it has stored what it did.
	done := make(chan bool)
	go func() { done <- g.setStatus(1) }()
	b := make([]byte, RequestBytes)
	if _, err := g.Read(b); err != nil {
		t.Fatal(err)
	}
	s.state.Status = 1
	if err := errors.Join(s.save(), g.Close(), s.store.Close()); err != nil {
		t.Fatal(err)
	}
	p := h.serve(g.open(), true, h.options())
	if <-done {
		t.Error("the message that comes again fails")
	}
	if g.begin(plainFeatures, 0) {
		t.Errorf("the device cannot be used: %q", h.log)
	}
	status, _, _ := g.do(0, driver.TypeOut, 1, fill(1, 1))
	want(t, "write", status, driver.StatusOK)
	g.setStatus(0)
	p.leave(t)
}

// Why a process cannot go on with a device. Nothing that is stored changes.
func TestRefusesToResume(t *testing.T) {
	h, g := plainHost(t, 1), newGuest(t, 1)
	p := h.serve(g.open(), false, h.options())
	g.begin(plainFeatures, 0)
	p.leave(t)
	path := statePath(h.dir, "one")
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*State)
		words  string
	}{
		"queues":   {func(s *State) { s.Queues = 2 }, "start zvhost with --queues=2"},
		"features": {func(s *State) { s.Features |= 1 << 50 }, "not offered any more"},
		"disk":     {func(s *State) { s.Device++; s.Device ^= 1 << 40 }, "not the one"},
	} {
		s, err := ParseState(was)
		if err != nil {
			t.Fatal(err)
		}
		c.change(&s)
		if err := os.WriteFile(path, s.Append(nil), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Resume(g, h.dev, h.dir, "one", h.options()); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"cut": was[:len(was)-1], "empty": nil, "other": append([]byte("x"), was...), "bit": append(was[:len(was)-9:len(was)-9], was[len(was)-8:]...)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Resume(g, h.dev, h.dir, "one", h.options()); err == nil {
			t.Errorf("a state that is %s is taken", name)
		}
	}
	if err := RemoveStore(h.dir, "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := Resume(g, h.dev, h.dir, "one", h.options()); !errors.Is(err, ErrNoState) {
		t.Errorf("without a state: %v", err)
	}
}

// The kernel refuses interrupts until it has set DRIVER_OK, some time after the answer.
func TestEarlyInterrupt(t *testing.T) {
	h, g := plainHost(t, 1), newGuest(t, 1)
	p := h.serve(g.open(), false, h.options())
	g.begin(plainFeatures, 0)
	g.mu.Lock()
	g.status = 11
	g.mu.Unlock()
	b := g.send(0, driver.TypeOut, 0, fill(1, 1))
	for refused := 0; refused < 3; {
		g.mu.Lock()
		refused = g.early
		g.mu.Unlock()
	}
	g.mu.Lock()
	g.status = 15
	g.mu.Unlock()
	status, _ := g.wait(0, b)
	want(t, "write", status, driver.StatusOK)
	g.setStatus(0)
	p.leave(t)
}

// What a driver of another process can set up wrong (vhost_vdpa): the device does not start,
// and goes on when it is set up right.
func TestRefusesRings(t *testing.T) {
	h, g := plainHost(t, 1), newGuest(t, 1)
	p := h.serve(g.open(), false, h.options())
	for name, change := range map[string]func(*QueueInfo){
		"no descriptors":     func(q *QueueInfo) { q.Size = 0 },
		"no power of two":    func(q *QueueInfo) { q.Size = 63 },
		"too many":           func(q *QueueInfo) { q.Size = 512 },
		"far too many":       func(q *QueueInfo) { q.Size = 1<<16 + 64 },
		"outside memory":     func(q *QueueInfo) { q.Desc = 1 << 50 },
		"across memory":      func(q *QueueInfo) { q.Desc = ringsAt + ringBytes - 16 },
		"unaligned":          func(q *QueueInfo) { q.Driver++ },
		"at the last byte":   func(q *QueueInfo) { q.DeviceArea = lastAddr },
		"used not in memory": func(q *QueueInfo) { q.DeviceArea = 0 },
	} {
		if g.begin(plainFeatures, 0) {
			t.Fatalf("%s: the device cannot be used any more: %q", name, h.log)
		}
		g.setStatus(0)
		g.mu.Lock()
		g.features = plainFeatures
		g.mu.Unlock()
		g.setStatus(11)
		c := g.rings[0].Config()
		q := QueueInfo{Size: ringSize, Desc: c.Desc, Driver: c.Avail, DeviceArea: c.Used, Ready: true}
		change(&q)
		g.mu.Lock()
		g.queues[0] = q
		g.mu.Unlock()
		if !g.setStatus(15) {
			t.Errorf("%s: the ring starts", name)
		}
	}
	p.leave(t)
}

// A disk that grows: the kernel gets the new configuration space and an interrupt, once.
func TestGrow(t *testing.T) {
	h, g := plainHost(t, 1), newGuest(t, 1)
	p := h.serve(g.open(), false, h.options())
	g.begin(plainFeatures, 0)
	if err := os.Truncate(h.path, 2<<20); err != nil {
		t.Fatal(err)
	}
	if _, _, told, err := h.dev.Grow(); err != nil || !told {
		t.Fatal(told, err)
	}
	for changes := 0; changes == 0; {
		g.mu.Lock()
		changes = g.changes
		g.mu.Unlock()
	}
	if c, err := driver.ParseBlkConfig(g.config); err != nil || c.Capacity != 4096 {
		t.Fatalf("%d sectors, %v", c.Capacity, err)
	}
	p.leave(t)
	p = h.serve(g.open(), true, h.options())
	g.ask(Request{Type: GetVQState})
	if g.changes != 1 {
		t.Errorf("%d configuration interrupts for one change", g.changes)
	}
	p.leave(t)
}

// The session ends when the device is removed, and with an error when the kernel gives it up.
func TestEnds(t *testing.T) {
	h, g := plainHost(t, 1), newGuest(t, 1)
	attached := make(chan bool, 1)
	opt := h.options()
	here := true
	opt.Attached = func() bool {
		select {
		case here = <-attached:
		default:
		}
		return here
	}
	p := h.serve(g.open(), false, opt)
	g.begin(plainFeatures, 0)
	g.setStatus(0)
	g.setStatus(1) // virtio_dev_remove of Linux acknowledges a device once more that it lets go
	attached <- true
	for len(attached) > 0 { // it has been there
	}
	attached <- false
	if err := <-p.end; !errors.Is(err, ErrRemoved) {
		t.Errorf("removed: %v", err)
	}
}

// readFails is a Kernel whose messages cannot be read any more.
type readFails struct {
	*guest
	err error
}

func (k readFails) Read([]byte) (int, error) { return 0, k.err }

func TestBroken(t *testing.T) {
	h, g := plainHost(t, 1), newGuest(t, 1)
	g.open()
	p := h.serve(readFails{g, ErrBroken}, false, h.options())
	if err := <-p.end; !errors.Is(err, ErrBroken) {
		t.Errorf("broken: %v", err)
	}
}
