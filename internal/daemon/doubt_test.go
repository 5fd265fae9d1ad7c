package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
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
	r := zonedRig(t, backend.Geometry{CapacitySectors: 4 * 128, ZoneSectors: 128, ConventionalZones: 1}, 1)
	g := r.connect(o)
	q := g.Queue(0)
	data := make([]byte, 4096)
	if _, err := q.Append(data, 128); err != nil {
		t.Fatal(err)
	}
	if err := q.Flush(); err != nil {
		t.Fatal(err)
	}
	// As it is on the disk when the daemon dies.
	bytes, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk.zvh")
	if err := os.WriteFile(path, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
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
// started yet; the end of the session does.
func TestEachRingIsInDoubt(t *testing.T) {
	r := zonedRig(t, smallZones, 1)
	g := r.connect(frontend.Options{})
	g.want("append", driver.StatusOK, firstOf(g.Queue(0).Append(pattern(4096, 1), 128)))
	bytes, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	g.leave()
	path := filepath.Join(t.TempDir(), "disk.zvh")
	if err := os.WriteFile(path, bytes, 0o600); err != nil {
		t.Fatal(err)
	}

	dev := newRig(t, path, 2).dev
	mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{Size: 1 << 16, UserAddr: fuzzUser})})
	if err != nil {
		t.Fatal(err)
	}
	at, err := driver.NewRing(mem, 0, 32, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := at.Config()
	ring := vhostuser.Ring{
		Size: 32, Desc: fuzzUser + l.Desc, Avail: fuzzUser + l.Avail, Used: fuzzUser + l.Used,
		Base: 3, Mem: mem, Kick: newEventFD(t), Call: -1, Err: -1,
	}
	want := func(zero, one bool) {
		t.Helper()
		if is := [2]bool{dev.doubts(0, &ring), dev.doubts(1, &ring)}; is != [2]bool{zero, one} {
			t.Errorf("rings in doubt: %v", is)
		}
	}
	want(true, true)
	if err := dev.StartQueue(0, ring); err != nil {
		t.Fatal(err)
	}
	dev.StopQueue(0, "test")
	want(false, true)
	dev.Reset()
	want(false, false)
}
