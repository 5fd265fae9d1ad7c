package device

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/recovery"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A front-end that connects anew to the daemon after one that died, without a
// record, and goes back to the used index: what may have been carried out is not
// carried out again, and everything behind it is served.
func TestReconnectWithoutRecord(t *testing.T) {
	for name, o := range map[string]frontend.Options{"split": {}, "packed": {Packed: true}} {
		t.Run(name, func(t *testing.T) { reconnectWithoutRecord(t, o) })
	}
}

func reconnectWithoutRecord(t *testing.T, o frontend.Options) {
	r := zonedRig(t, zone.Geometry{CapacitySectors: 4 * 128, ZoneSectors: 128, ConventionalZones: 1}, 1)
	g := r.connect(o)
	q := g.Queue(0)
	data := make([]byte, 4096)
	if _, err := q.Append(data, 128); err != nil {
		t.Fatal(err)
	}
	if err := q.Flush(); err != nil {
		t.Fatal(err)
	}
	path := copyOf(t, r.path)
	if _, err := q.Stop(); err != nil {
		t.Fatal(err)
	}
	var waiting []*frontend.Request
	// More of them than are taken at once.
	types := []uint32{driver.TypeZoneAppend, driver.TypeZoneReset, driver.TypeOut, driver.TypeIn}
	for range burst {
		types = append(types, driver.TypeIn, driver.TypeZoneAppend)
	}
	for _, typ := range types {
		req := q.Get()
		req.Type, req.Sector = typ, 128
		if typ == driver.TypeOut {
			req.Sector = 0 // in the conventional zone
		}
		req.SetLen(4096)
		if typ == driver.TypeZoneReset {
			req.SetLen(0)
		}
		if err := q.Submit(req); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, req)
	}
	if err := q.Kick(); err != nil {
		t.Fatal(err)
	}

	next := newRig(t, path, 1)
	client, ended := next.dial()
	if err := g.Disk.Reconnect(client); err != nil {
		t.Fatal(err)
	}
	if err := <-g.ended; err != nil {
		t.Fatal(err)
	}
	done := make([]*frontend.Request, len(waiting))
	for n := 0; n < len(waiting); {
		k, err := q.Wait(done[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	want := map[uint32]byte{driver.TypeZoneAppend: driver.StatusIOErr, driver.TypeZoneReset: driver.StatusIOErr, driver.TypeOut: driver.StatusOK, driver.TypeIn: driver.StatusOK}
	for _, req := range done {
		if req.Status != want[req.Type] {
			t.Errorf("type %d: %s", req.Type, driver.StatusString(req.Status))
		}
		q.Put(req)
	}
	if !strings.Contains(next.book.String(), "INFLIGHT_SHMFD") {
		t.Error("the log does not say why")
	}
	if at, err := q.Append(data, 128); err != nil || at != 128+8 {
		t.Errorf("the next append is at %d, %v", at, err)
	}
	g.r, g.ended = next, ended
	g.leave()
}

// A message that stops a ring for a moment says nothing of another one, which has not
// started yet, nor of what the ring has not been looked at for; the end of the session
// does. The record says it to the next process.
func TestEachRingIsInDoubt(t *testing.T) {
	dead := deadDisk(t)
	rings, rec := recordedRings(t)
	var dev *Device
	want := func(zero, one bool) {
		t.Helper()
		if is := [2]bool{dev.recovery.MayHaveRun(0, &rings[0]), dev.recovery.MayHaveRun(1, &rings[1])}; is != [2]bool{zero, one} {
			t.Errorf("rings in doubt: %v", is)
		}
	}
	dev = newRig(t, copyOf(t, dead), 2).dev
	want(true, true)
	broken := rings[0]
	broken.Base = 5 // nobody has got there
	if err := dev.StartQueue(0, broken); err != nil {
		t.Fatal(err)
	}
	dev.StopQueue(0, "test")
	want(true, true)
	rings[0].Life++
	if err := dev.StartQueue(0, rings[0]); err != nil {
		t.Fatal(err)
	}
	untilSettled(rec.Ring(0))
	dev.StopQueue(0, "test")
	want(false, true)
	rings[0].Record = nil // it need not look there
	want(false, true)
	dev.Reset()
	rings[1].Record = nil
	want(false, false)

	rings[0].Record, rings[1].Record = rec.Ring(0), rec.Ring(1)
	dev = newRig(t, dead, 2).dev
	want(false, true)
}

// A process that ends in good order before it has served anything leaves in doubt what
// was: by the disk where no queue was started, by the record where some were.
func TestDoubtsOutliveWhoServesNothing(t *testing.T) {
	path := deadDisk(t)
	rings, rec := recordedRings(t)
	ring := rings[0]
	doubted := func(r *rig, zero, one *inflight.Ring) {
		t.Helper()
		for i, rec := range []*inflight.Ring{zero, one} {
			if ring.Record = rec; !r.dev.recovery.MayHaveRun(i, &ring) {
				t.Errorf("ring %d is in no doubt", i)
			}
		}
	}
	for range 2 {
		r := newRig(t, path, 2)
		doubted(r, nil, nil)
		r.close()
	}
	r := newRig(t, path, 2)
	ring.Record, ring.Held = rec.Ring(0), true
	if err := r.dev.StartQueue(0, ring); err != nil {
		t.Fatal(err)
	}
	r.close()
	r = newRig(t, path, 2)
	doubted(r, rec.Ring(0), rec.Ring(1))
	if ring.Record = nil; r.dev.recovery.MayHaveRun(0, &ring) {
		t.Error("the disk says so too, though somebody has begun to use it")
	}
}

// A process that ends in good order, and leaves its session to the next one, leaves in
// doubt what was: the ring that has not started yet.
func TestHandOverLeavesDoubt(t *testing.T) {
	dead := deadDisk(t)
	rings, rec := recordedRings(t)
	want := [2]bool{true, true} // as each process finds them
	for process := range 3 {
		p := newRig(t, dead, 2)
		p.dev.Adopt(rec)
		if is := [2]bool{p.dev.recovery.MayHaveRun(0, &rings[0]), p.dev.recovery.MayHaveRun(1, &rings[1])}; is != want {
			t.Errorf("process %d: rings in doubt: %v", process, is)
		}
		for i := range min(process+1, 2) {
			rings[i].Life++
			if err := p.dev.StartQueue(i, rings[i]); err != nil {
				t.Fatal(err)
			}
			untilSettled(rec.Ring(i))
			want[i] = false
		}
		for i := range rings {
			p.dev.StopQueue(i, "test")
		}
		p.dev.Leave()
		p.dev.Reset()
		p.close()
	}
	rings[0].Record = nil
	if newRig(t, dead, 2).dev.recovery.MayHaveRun(0, &rings[0]) {
		t.Error("ring 0 is in doubt when all were settled")
	}
}

// A ring on a disk that was found clean is not put into doubt by another one that
// starts before it, and a process that dies then.
func TestNoRingIsInDoubt(t *testing.T) {
	r := zonedRig(t, smallZones, 2)
	rings, rec := recordedRings(t)
	ring := rings[1]
	if err := r.dev.StartQueue(1, ring); err != nil {
		t.Fatal(err)
	}
	dead := copyOf(t, r.path)
	r.dev.StopQueue(1, "test")
	next := newRig(t, dead, 2).dev
	ring.Record = rec.Ring(0)
	if next.recovery.MayHaveRun(0, &ring) {
		t.Error("ring 0 is in doubt")
	}
	if ring.Record = nil; !next.recovery.MayHaveRun(0, &ring) {
		t.Error("without a record it is not")
	}
}

// A note of doubts that somebody has put into the record of a disk which has none: it is
// in memory that the front-end can write to.
func TestNoteOfAnOrdinaryDisk(t *testing.T) {
	null := func(t *testing.T) *rig { return nullRig(t, 2) }
	for kind, make := range map[string]func(*testing.T) *rig{"ordinary": cacheRigs["ordinary"], "null": null} {
		for name, o := range map[string]frontend.Options{"split": {Inflight: true}, "packed": {Inflight: true, Packed: true}} {
			t.Run(kind+", "+name, func(t *testing.T) {
				r := make(t)
				g := r.connect(o)
				q, rec := g.Queue(0), g.recordOf(1)
				for word := range uint64(4) {
					g.want("write", driver.StatusOK, q.Write(pattern(4096, word), 0))
					base, err := q.Stop()
					if err != nil {
						t.Fatal(err)
					}
					rec.Ring(0).SetNote(word)
					req := q.Get()
					req.Type, req.Sector = driver.TypeOut, 0
					req.SetLen(4096)
					if err := errors.Join(q.Submit(req), q.Kick(), q.Start(base)); err != nil {
						t.Fatal(err)
					}
					done := []*frontend.Request{nil}
					if n, err := q.Wait(done); n != 1 || err != nil || done[0].Status != driver.StatusOK {
						t.Fatal(n, err)
					}
					q.Put(req)
				}
				g.leave()
			})
		}
	}
}

// recordOf is the record that the front-end has, as it sees it itself.
func (g *guest) recordOf(queues int) *inflight.Record {
	g.r.t.Helper()
	rec := openRecord(g.r.t, g.recordFD(), queues, g.Queue(0).Ring().Config().Size)
	g.r.t.Cleanup(func() { _ = rec.Close() })
	return rec
}

// copyOf is the disk as it is when its daemon dies now.
func copyOf(t *testing.T, path string) string {
	t.Helper()
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(t.TempDir(), "disk.zvh")
	if err := os.WriteFile(dead, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	return dead
}

// deadDisk is one of a daemon that died when it had carried out an append.
func deadDisk(t *testing.T) string {
	t.Helper()
	r := zonedRig(t, smallZones, 1)
	g := r.connect(frontend.Options{})
	g.want("append", driver.StatusOK, firstOf(g.Queue(0).Append(pattern(4096, 1), 128)))
	dead := copyOf(t, r.path)
	g.leave()
	return dead
}

// recordedRings are two rings in midstream, with a record.
func recordedRings(t *testing.T) (rings [2]transport.Ring, rec *inflight.Record) {
	t.Helper()
	rec, err := inflight.New(len(rings), 32)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rec.Close() })
	for i := range rings {
		rings[i] = midstream(t)
		rings[i].Record, rings[i].Records, rings[i].Life = rec.Ring(i), rec, 1
	}
	return rings, rec
}

func untilSettled(r *inflight.Ring) {
	for recovery.ParseNote(r.Note(), true) != recovery.NoteSettled {
		time.Sleep(time.Millisecond)
	}
}

// midstream is a ring in which three requests were answered, and none waits.
func midstream(t *testing.T) transport.Ring {
	t.Helper()
	mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{Size: 1 << 16, UserAddr: fuzzUser})})
	if err != nil {
		t.Fatal(err)
	}
	at, err := driver.NewRing(mem, 0, 32, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := at.Config()
	for _, part := range []uint64{l.Avail, l.Used} {
		b, err := mem.Bytes(part, 4)
		if err != nil {
			t.Fatal(err)
		}
		b[2] = 3 // the index
	}
	return transport.Ring{
		Size: 32, Desc: fuzzUser + l.Desc, Avail: fuzzUser + l.Avail, Used: fuzzUser + l.Used,
		Base: 3, Mem: mem, Kick: newEventFD(t), Call: -1, Err: -1,
	}
}

// A ring that stands where a new one begins, after 65,536 requests or two laps, is told from
// a new one by another ring of the same front-end, and by what a device has left in it.
func TestRingThatWentRound(t *testing.T) {
	for name, c := range map[string]struct {
		o        frontend.Options
		requests int
	}{
		"split": {frontend.Options{}, 1 << 16}, "packed": {frontend.Options{Packed: true}, 2 * 64},
	} {
		t.Run(name, func(t *testing.T) {
			for _, other := range []bool{true, false} {
				c.o.Queues, c.o.QueueSize, c.o.Depth, c.o.BufferBytes = 3, 64, 32, 4096
				ringThatWentRound(t, c.o, c.requests, other)
			}
		})
	}
}

// ringThatWentRound has ring 1 go round, and ring 2 unused; other says that ring 0, which
// starts first, is in midstream.
func ringThatWentRound(t *testing.T, o frontend.Options, requests int, other bool) {
	r := zonedRig(t, zone.Geometry{CapacitySectors: 4 * 128, ZoneSectors: 128, ConventionalZones: 1}, 3)
	g := r.connect(o)
	if other {
		g.want("flush", driver.StatusOK, g.Queue(0).Flush())
	}
	goRound(t, g.Queue(1), requests)
	path := copyOf(t, r.path)
	for i := range 3 {
		if _, err := g.Queue(i).Stop(); err != nil {
			t.Fatal(err)
		}
	}
	round, fresh := sendTo(g, 1, driver.TypeZoneAppend, 128, 4096), sendTo(g, 2, driver.TypeZoneAppend, 256, 4096)

	next := newRig(t, path, 3)
	client, ended := next.dial()
	if err := errors.Join(g.Disk.Reconnect(client), <-g.ended); err != nil {
		t.Fatal(err)
	}
	want := map[*frontend.Request]byte{round: driver.StatusOK, fresh: driver.StatusOK}
	if other {
		want[round] = driver.StatusIOErr
	}
	for i := 1; i < 3; i++ {
		var done [1]*frontend.Request
		if _, err := g.Queue(i).Wait(done[:]); err != nil {
			t.Fatal(err)
		}
		if got := done[0].Status; got != want[done[0]] {
			t.Errorf("another ring in midstream %v: ring %d: %s", other, i, driver.StatusString(got))
		}
		g.Queue(i).Put(done[0])
	}
	for i := 1; i < 3; i++ { // what comes to it now is new
		g.want("append", driver.StatusOK, firstOf(g.Queue(i).Append(make([]byte, 4096), 384)))
	}
	g.r, g.ended = next, ended
	g.leave()
}

// goRound has n requests carried out.
func goRound(t *testing.T, q *frontend.Queue, n int) {
	t.Helper()
	done := make([]*frontend.Request, 32)
	for sent := 0; sent < n || q.InFlight() > 0; {
		for sent < n && q.InFlight() < len(done) {
			req := q.Get()
			req.Type, req.Sector = driver.TypeIn, 0
			req.SetLen(512)
			if err := q.Submit(req); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		if err := q.Kick(); err != nil {
			t.Fatal(err)
		}
		k, err := q.Wait(done)
		if err != nil {
			t.Fatal(err)
		}
		for _, req := range done[:k] {
			q.Put(req)
		}
	}
}
