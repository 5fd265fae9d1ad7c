package device

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

const markAt = 1 // disk.NotedAddress

// leftBehind is a record of two queues, as a daemon leaves it that dies with an append
// of 8 sectors to zone 1 in flight in queue 1.
func leftBehind(t *testing.T, r *rig) *inflight.Record {
	t.Helper()
	rec, err := inflight.New(2, 256)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rec.Close() })
	ring := rec.Ring(1)
	if _, _, err := ring.Begin(inflight.Start{Size: 256, Life: 1}, 0); err != nil {
		t.Fatal(err)
	}
	ring.SetUser(disk.Run(r.disk))
	m := ring.Take(5)
	m[1] = 8
	m[0] = markAt | smallZones.ZoneSectors<<8
	return rec
}

// setInflight has the front-end give the record to the daemon.
func setInflight(g *guest, rec *inflight.Record) {
	g.r.t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(rec.FD(), &st); err != nil {
		g.r.t.Fatal(err)
	}
	area := vhostuser.InflightArea{Bytes: uint64(st.Size), Queues: 2, QueueSize: 256}
	if err := g.Client.Set(vhostuser.SetInflightFD, area.Append(nil), rec.FD()); err != nil {
		g.r.t.Fatal(err)
	}
}

// A record in the place of another one: what was claimed for that is given up, while
// its memory is still there.
func TestRecordInThePlaceOfAnother(t *testing.T) {
	r := zonedRig(t, smallZones, 2)
	g := r.connect(frontend.Options{})
	if _, err := g.Queue(0).Stop(); err != nil {
		t.Fatal(err)
	}
	first := leftBehind(t, r)
	setInflight(g, first)
	empty, err := inflight.New(2, 256)
	if err != nil {
		t.Fatal(err)
	}
	setInflight(g, empty)
	const failed = 3 // backend.markFailed
	if m := first.Ring(1).Mark(5)[0]; m != failed {
		t.Errorf("the mark of what was given up is %#x", m)
	}
	if err := empty.Close(); err != nil {
		t.Error(err)
	}
	if err := g.Queue(0).Start(0); err != nil {
		t.Fatal(err)
	}
	g.want("reset", driver.StatusOK, g.Queue(0).Zone(driver.TypeZoneReset, smallZones.ZoneSectors))
	g.leave()
}

// A front-end does not start all queues that had requests in flight when another
// daemon died, and others wait for them: a message that stops those, and the end of
// the session, do not wait for ever.
func TestQueueThatIsNeverStarted(t *testing.T) {
	for name, stop := range map[string]func(g *guest) error{
		"leave": func(g *guest) error { return nil },
		"stop":  func(g *guest) error { _, err := g.Queue(0).Stop(); return err },
		"reset": func(g *guest) error { return g.Client.ResetDevice() },
	} {
		t.Run(name, func(t *testing.T) {
			r := zonedRig(t, smallZones, 2)
			r.dev.patience = time.Millisecond
			g := r.connect(frontend.Options{})
			if _, err := g.Queue(0).Stop(); err != nil {
				t.Fatal(err)
			}
			setInflight(g, leftBehind(t, r))
			if err := g.Queue(0).Start(0); err != nil {
				t.Fatal(err)
			}
			send(g, driver.TypeZoneReset, smallZones.ZoneSectors, 0)
			read := send(g, driver.TypeIn, 0, 4096)
			done := make([]*frontend.Request, 2)
			if n, err := g.Queue(0).Wait(done); n != 1 || err != nil || done[0] != read {
				t.Fatalf("%d are done, %v: the reset did not wait", n, err)
			}
			if err := stop(g); err != nil {
				t.Fatal(err)
			}
			if err := g.Abandon(); err != nil {
				t.Fatal(err)
			}
			if err := <-g.ended; err != nil {
				t.Error(err)
			}
			r.nextIsServed()
		})
	}
}

// A queue whose record makes no sense leaves nothing behind that others wait for.
func TestQueueWithASpoiltRecord(t *testing.T) {
	r := zonedRig(t, smallZones, 2)
	rec := leftBehind(t, r)
	r.dev.Adopt(rec)
	start := transport.Ring{Size: 32, Life: 1, Call: -1, Record: rec.Ring(1), Records: rec}
	if err := r.dev.recovery.Start(1, &start); err != nil {
		t.Fatal(err)
	}
	w := &worker{dev: r.dev, index: 1, rec: start.Record, recovery: r.dev.recovery.Ring(1), ring: start}
	r.dev.recovery.Served(1)
	mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{Size: 1 << 16, UserAddr: fuzzUser})})
	if err != nil {
		t.Fatal(err)
	}
	ring, err := driver.NewRing(mem, 0, 32, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := ring.Config()
	w.queue, err = virtio.NewSplit(virtio.RingConfig{Size: 32, Desc: fuzzUser + l.Desc, Avail: fuzzUser + l.Avail, Used: fuzzUser + l.Used, Mem: mem})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.pickUp(); err == nil {
		t.Fatal("a ring of another size was taken")
	}
	g := r.connect(frontend.Options{})
	g.want("reset", driver.StatusOK, g.Queue(0).Zone(driver.TypeZoneReset, smallZones.ZoneSectors))
	g.leave()
}
