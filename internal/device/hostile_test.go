package device

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A guest that makes more available than its ring has, while all of it is in flight,
// is told so at once, and costs no more than its queue. What was in flight is
// answered.
func TestMoreAvailableThanTheRingHas(t *testing.T) {
	for name, c := range map[string]struct {
		size  int // of the ring
		spoil func(*driver.Ring)
	}{
		"split": {4, func(r *driver.Ring) { r.PutAvail(0); r.Publish() }},
		"packed": {3, func(r *driver.Ring) { // available in the second lap
			r.SetPackedDesc(0, frontend.GuestBase, 16, 0, 1<<15)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := plainRig(t, 1)
			gate := r.newGate()
			g := r.connect(frontend.Options{QueueSize: uint16(c.size), Depth: c.size, BufferBytes: 4096, Packed: name == "packed"})
			q, errs := g.Queue(0), g.errFD(0)
			gate.shut.Store(true)
			for range c.size {
				send(g, driver.TypeIn, 0, 4096)
			}
			gate.wait(int64(c.size))
			c.spoil(q.Ring())
			g.kick(0)
			readable(t, "the err eventfd", errs)
			r.logged("queue 0 is broken")

			gate.open()
			var done [4]*frontend.Request
			for n := 0; n < c.size; {
				k, err := q.Wait(done[:])
				if err != nil {
					t.Fatal(err)
				}
				n += k
			}
			g.leave()
			r.nextIsServed()
		})
	}
}

// A ring whose indices make no sense costs that queue: the front-end is told,
// the session and the other queues go on, and the queue works again once it is
// set up anew.
func TestBrokenRing(t *testing.T) {
	for name, spoil := range map[string]func(*driver.Ring){
		"index far ahead": func(r *driver.Ring) { r.SetAvailIdx(r.DeviceIdx() + 129) },
		"index behind":    func(r *driver.Ring) { r.SetAvailIdx(r.DeviceIdx() - 1) },
		"no such head":    func(r *driver.Ring) { r.PutAvail(128); r.Publish() },
		"head 65535":      func(r *driver.Ring) { r.PutAvail(0xffff); r.Publish() },
	} {
		t.Run(name, func(t *testing.T) {
			base := breakRing(t, false, spoil)
			if base < 1 {
				t.Errorf("base %d", base)
			}
		})
	}
}

// breakRing has spoil break the ring of queue 0, and checks that only this queue stops and
// that it works again once it is set up anew. It returns the base at which it stopped.
func breakRing(t *testing.T, packed bool, spoil func(*driver.Ring)) (base uint32) {
	t.Helper()
	r := zonedRig(t, smallZones, 2)
	g := r.connect(frontend.Options{Queues: 2, Packed: packed})
	q, errs := g.Queue(0), g.errFD(0)
	g.want("append", driver.StatusOK, firstOf(q.Append(pattern(4096, 1), 128)))
	spoil(q.Ring())
	g.kick(0)
	readable(t, "the err eventfd", errs)
	r.logged("queue 0 is broken")

	g.want("append on the other queue", driver.StatusOK, firstOf(g.Queue(1).Append(pattern(4096, 2), 128)))
	base, err := q.Stop()
	if err != nil || packed && base != q.Ring().Base() {
		t.Fatalf("base %#x, %v", base, err)
	}
	// A driver that resets the queue begins with an empty ring.
	l := q.Ring().Config()
	fresh, err := driver.NewRing(g.Memory.Memory, l.Desc, l.Size, g.Features)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Start(fresh.Base()); err != nil {
		t.Fatal(err)
	}
	g.vanish()
	r.nextIsServed()
	return base
}

// A ring that is broken over and over fills no log.
func TestBrokenRingIsNotLoggedForEver(t *testing.T) {
	r := plainRig(t, 1)
	g := r.connect(frontend.Options{})
	g.Queue(0).Ring().SetAvailIdx(1000)
	for range 5 * logging.ErrorsAWindow {
		errs := newEventFD(t)
		if err := g.Client.SetVringErr(0, errs); err != nil {
			t.Fatal(err)
		}
		if err := g.Client.SetVringKick(0, g.Queue(0).KickFD()); err != nil { // it is started again
			t.Fatal(err)
		}
		readable(t, "the err eventfd", errs)
		late := newEventFD(t)
		if err := g.Client.SetVringErr(0, late); err != nil {
			t.Fatal(err)
		}
		readable(t, "the err eventfd of a ring that is broken already", late)
	}
	g.vanish()
	if n := bytes.Count([]byte(r.book.String()), []byte("is broken")); n < 1 || n > 2*logging.ErrorsAWindow {
		t.Errorf("%d lines of a broken ring", n)
	}
	r.nextIsServed()
}

// A front-end shrinks the memory of its rings: that queue is broken, said in the
// log, and nobody else notices.
func TestRingMemoryGoesAway(t *testing.T) {
	r := zonedRig(t, smallZones, 1)
	gate := r.newGate()
	for _, inFlight := range []bool{false, true} {
		removeRingMemory(r, gate, false, inFlight)
	}
}

// removeRingMemory has a front-end shrink the memory of its ring, with a request in flight or
// without, and checks that the next front-end is served.
func removeRingMemory(r *rig, gate *gate, packed, inFlight bool) {
	r.t.Helper()
	g := r.connect(frontend.Options{Packed: packed})
	errs := g.errFD(0)
	if inFlight {
		gate.shut.Store(true)
		send(g, driver.TypeZoneAppend, 128, 4096)
		gate.wait(1)
	}
	if err := unix.Ftruncate(g.Memory.Region.FD(), 0); err != nil {
		r.t.Fatal(err)
	}
	gate.open()
	g.kick(0)
	readable(r.t, "the err eventfd", errs)
	r.logged("its memory is not there (fault at 0x")
	// The test's own access to the ring would fault as well: no Stop.
	g.vanish()
	r.nextIsServed()
}

// send puts a request into queue 0 and does not wait for it.
func send(g *guest, typ uint32, sector uint64, n int) *frontend.Request {
	g.r.t.Helper()
	return sendTo(g, 0, typ, sector, n)
}

func sendTo(g *guest, queue int, typ uint32, sector uint64, n int) *frontend.Request {
	g.r.t.Helper()
	q := g.Queue(queue)
	req := q.Get()
	req.Type, req.Sector = typ, sector
	req.SetLen(n)
	if err := q.Submit(req); err != nil {
		g.r.t.Fatal(err)
	}
	if err := q.Kick(); err != nil {
		g.r.t.Fatal(err)
	}
	return req
}

// A front-end shrinks the memory of data: that is an error of the request.
func TestDataMemoryGoesAway(t *testing.T) {
	for name, c := range map[string]struct {
		typ    uint32
		sector uint64
	}{
		"write": {driver.TypeOut, 0}, "append": {driver.TypeZoneAppend, 128}, "read": {driver.TypeIn, 8}, "read of zeroes": {driver.TypeIn, 256},
	} {
		t.Run(name, func(t *testing.T) {
			r := zonedRig(t, smallZones, 1)
			g := r.connect(frontend.Options{})
			const at = frontend.GuestBase + 1<<32
			region, err := g.AddRegion(guestmem.RegionDesc{GuestAddr: at, Size: 8192, UserAddr: frontend.UserBase + 1<<32})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = region.Close() }()
			q := g.Queue(0)
			g.want("write", driver.StatusOK, q.Write(pattern(4096, 1), 8))

			// Header and status in memory that stays, data in what goes.
			header, mem, err := g.Memory.Alloc(64, 16)
			if err != nil {
				t.Fatal(err)
			}
			driver.PutHeader(mem, c.typ, c.sector)
			status := header + 32
			mem[32+8] = driver.StatusNone
			out, in := []driver.Buffer{{GuestAddr: header, Len: 16}}, []driver.Buffer{{GuestAddr: status, Len: 9}}
			data := driver.Buffer{GuestAddr: at, Len: 8192}
			if c.typ == driver.TypeIn {
				in = []driver.Buffer{data, {GuestAddr: status + 8, Len: 1}}
			} else {
				out = append(out, data)
			}
			if err := unix.Ftruncate(region.FD(), 4096); err != nil {
				t.Fatal(err)
			}
			if _, err := q.Ring().Add(out, in, 0); err != nil {
				t.Fatal(err)
			}
			q.Ring().Publish()
			g.kick(0)
			if _, err := q.Stop(); err != nil {
				t.Fatal(err)
			}
			for q.Ring().DeviceIdx() == 1 {
				if err := errors.Join(q.Start(1), firstOf(q.Stop())); err != nil {
					t.Fatal(err)
				}
			}
			if mem[32+8] != driver.StatusIOErr {
				t.Errorf("status %s", driver.StatusString(mem[32+8]))
			}
			r.logged("bad address")
			g.vanish()
			r.nextIsServed()
		})
	}
}

// A front-end that is killed with requests in flight leaves nothing behind that
// the next one could notice.
func TestFrontEndVanishes(t *testing.T) {
	r := zonedRig(t, smallZones, 1)
	gate := r.newGate()
	g := r.connect(frontend.Options{})
	gate.shut.Store(true)
	for range 8 {
		send(g, driver.TypeZoneAppend, 128, 4096)
	}
	gate.wait(8)
	if err := g.Abandon(); err != nil {
		t.Fatal(err)
	}
	gate.open()
	if err := <-g.ended; err != nil {
		t.Error(err)
	}
	r.nextIsServed()
}

// A kick descriptor that is readable for ever, an eventfd that counts down by one, does
// not keep the worker going round, and requests are found all the same.
func TestKickWithoutEnd(t *testing.T) {
	r := plainRig(t, 1)
	g := r.connect(frontend.Options{})
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.Write(fd, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if err := g.Client.SetVringKick(0, fd); err != nil {
		t.Logf("refused: %v", err)
	} else {
		r.book.Wait(1, "its kick descriptor is signalled without end")
		for range 3 {
			g.want("write", driver.StatusOK, g.Queue(0).Write(pattern(4096, 1), 0))
		}
	}
	g.vanish()
	r.nextIsServed()
}

// A ring that is moved while it runs is served at its new place from then on.
func TestRingMoves(t *testing.T) {
	r := plainRig(t, 1)
	g := r.connect(frontend.Options{})
	q := g.Queue(0)
	l := q.Ring().Config()
	user := g.Memory.UserAddr
	for range 20 {
		g.want("write", driver.StatusOK, q.Write(pattern(4096, 1), 0))
		// Nonsense, outside memory and inside, and back.
		if err := g.Client.SetVringAddr(0, 4096, 4096, 4096); err == nil {
			t.Fatal("a ring outside memory was taken")
		}
		if err := g.Client.SetVringAddr(0, user(l.Desc), user(l.Used), user(l.Avail)&^3); err != nil {
			t.Log(err)
		}
		if _, err := g.Client.VringBase(0); err != nil {
			t.Fatal(err)
		}
		if err := g.Client.SetVringAddr(0, user(l.Desc), user(l.Avail), user(l.Used)); err != nil {
			t.Fatal(err)
		}
		base := uint32(q.Ring().DeviceIdx())
		if err := q.Start(base); err != nil {
			t.Fatal(err)
		}
	}
	g.vanish()
	r.nextIsServed()
}
