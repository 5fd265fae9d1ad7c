package device

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

func mustFaults(t testing.TB, lines ...string) (faults []disk.Fault) {
	t.Helper()
	for _, line := range lines {
		f, err := disk.ParseFault(line)
		if err != nil {
			t.Fatal(err)
		}
		faults = append(faults, f)
	}
	return faults
}

// Under load on several queues everything goes wrong with zone 1, at run time:
// no other zone notices, neither in its reports nor in its data, and what was
// answered in zone 1 is there.
func TestFaultStaysInItsZone(t *testing.T) {
	const bad, zoneSectors = 1, 2048
	r := zonedRig(t, loadZones, loadQueues)
	g := r.connect(frontend.Options{Queues: loadQueues, BufferBytes: loadBytes, QueueSize: 64})
	loaders := make([]*loader, loadQueues)
	struck := 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range loaders {
		l := &loader{g: g, queue: i, landed: map[uint64]uint64{}}
		l.excused = func(r *frontend.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if r.Sector != bad*zoneSectors {
				return false
			}
			struck++
			return true
		}
		loaders[i] = l
		wg.Go(func() {
			if err := l.run(loadCount, func() error { return nil }); err != nil {
				t.Errorf("queue %d: %v", i, err)
			}
		})
	}
	loaded := make(chan struct{})
	go func() { wg.Wait(); close(loaded) }()
	faults := mustFaults(t, "append,zone=1,times=3,after=3", "latency=1ms,zone=1", "append,zone=1,once")
	for n := 0; ; n++ {
		ids, err := r.disk.Faults().Add(faults...)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range []backend.ZoneTarget{backend.ToReadOnly, backend.ToOffline, backend.ToWritable} {
			if err := backend.SetZoneStates(r.disk, []int{bad}, to); err != nil {
				t.Error(err)
			}
		}
		if err := r.disk.Faults().Clear(ids...); err != nil {
			t.Error(err)
		}
		select {
		case <-loaded:
		default:
			continue
		}
		break
	}
	if struck == 0 {
		t.Error("nothing went wrong")
	}
	zones, err := g.Queue(0).Report(0, 100)
	if err != nil {
		t.Fatal(err)
	}
	landed, buf := [4]uint64{}, make([]byte, loadBytes)
	for _, l := range loaders {
		for sector, seed := range l.landed {
			landed[sector/zoneSectors] += loadBytes / disk.SectorSize
			if err := g.Queue(0).Read(buf, sector); err != nil || !bytes.Equal(buf, pattern(loadBytes, seed)) {
				t.Fatalf("sector %d does not have what was appended there, %v", sector, err)
			}
		}
	}
	for i, z := range zones {
		if i != bad && (z.WP-z.Start != landed[i] || byte(zone.ImpOpen) != z.State) {
			t.Errorf("zone %d is in state %d with %d sectors written, want %d", i, z.State, z.WP-z.Start, landed[i])
		}
	}
	g.leave()
}

// The guest gets the status for each fault, and a flush that fails once fails
// once.
func TestFaultStatus(t *testing.T) {
	r := zonedRig(t, rigGeometry, 1)
	g := r.connect(frontend.Options{})
	q := g.Queue(0)
	if _, err := r.disk.Faults().Add(mustFaults(t, "write,zone=3,once", "read,zone=4", "append,zone=5", "flush,once", "full")...); err != nil {
		t.Fatal(err)
	}
	data := pattern(4096, 1)
	g.want("write", driver.StatusIOErr, q.Write(data, 3*128))
	g.want("read", driver.StatusIOErr, q.Read(data, 4*128))
	_, err := q.Append(data, 5*128)
	g.want("append", driver.StatusIOErr, err)
	g.want("flush", driver.StatusIOErr, q.Flush())
	g.want("flush again", driver.StatusOK, q.Flush())
	g.want("write to the full disk", driver.StatusIOErr, q.Write(data, 6*128))
	r.logged("fault 1 (write,zone=3,once)")
	r.logged("no space left on device")
	r.disk.Faults().ClearAll()
	g.want("write", driver.StatusOK, q.Write(data, 3*128))
	if err := backend.SetZoneStates(r.disk, []int{3}, backend.ToReadOnly); err != nil {
		t.Fatal(err)
	}
	g.want("write to a read-only zone", driver.StatusZoneInvalidCmd, q.Write(data, 3*128+8))
	g.want("reset of a read-only zone", driver.StatusZoneInvalidCmd, q.Zone(driver.TypeZoneReset, 3*128))
	g.want("read of a read-only zone", driver.StatusOK, q.Read(data, 3*128))
	if err := backend.SetZoneStates(r.disk, []int{3}, backend.ToOffline); err != nil {
		t.Fatal(err)
	}
	g.want("read of an offline zone", driver.StatusZoneInvalidCmd, q.Read(data, 3*128))
	g.leave()
}

// Who stops a queue, or ends the daemon, waits for no answer that a fault holds
// back: it is given then.
func TestStopInSpiteOfLatency(t *testing.T) {
	r := zonedRig(t, rigGeometry, 1)
	g := r.connect(frontend.Options{})
	if _, err := r.disk.Faults().Add(mustFaults(t, "latency=1h")...); err != nil {
		t.Fatal(err)
	}
	q := g.Queue(0)
	req := q.Get()
	req.Type, req.Sector = driver.TypeOut, 3*128
	req.SetLen(512)
	if err := q.Submit(req); err != nil {
		t.Fatal(err)
	}
	if err := q.Kick(); err != nil {
		t.Fatal(err)
	}
	for r.disk.ReportZone(3).State == zone.Empty { // until it has landed
		time.Sleep(time.Millisecond)
	}
	if base, err := q.Stop(); err != nil || base != 1 || q.Ring().DeviceIdx() != 1 {
		t.Errorf("stopped at %d with %d answered, %v", base, q.Ring().DeviceIdx(), err)
	}
	var done [1]*frontend.Request
	if n, err := q.Poll(done[:]); n != 1 || err != nil || done[0].Status != driver.StatusOK {
		t.Errorf("%d answers, %v", n, err)
	}
	q.Put(req)
	g.leave()
}
