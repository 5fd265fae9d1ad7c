package device

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/recovery"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// heapBytes is how much of the heap is in use.
func heapBytes() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What a front-end makes of its rings costs no more memory than docs/architecture.md
// says: 4 MiB for each queue, when all 64 rings have 32,768 entries and as much as
// possible is in flight in each, in as many pieces as possible.
func TestRingsHaveBoundedMemory(t *testing.T) {
	const queues, size, perQueue = 64, 32768, 4 << 20
	if n := unsafe.Sizeof(virtio.BlkRequest{}); n*(maxRequests+chunkRequests) > 1<<20 {
		t.Errorf("a request has %d bytes: the limits in requests.go are reckoned with less than 1 KiB", n)
	}
	for name, features := range map[string]uint64{"split": driver.FeatureIndirectDesc, "packed": driver.FeatureRingPacked | driver.FeatureIndirectDesc} {
		t.Run(name, func(t *testing.T) {
			r := plainRig(t, queues)
			gate := r.newGate()
			// All rings are the same piece of guest memory: it is theirs to read, and each
			// writes only where it says about kicks, so it does not matter.
			const tables, data, headers = 1 << 22, 1 << 23, 1<<23 + 1<<20
			region, err := frontend.NewRegion(guestmem.RegionDesc{Size: 1 << 24, UserAddr: fuzzUser})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = region.Close() }()
			ours, err := guestmem.Map(region.FD(), region.Desc())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ours.Unmap() }()
			mem, err := guestmem.New([]*guestmem.Region{ours})
			if err != nil {
				t.Fatal(err)
			}
			ring, err := driver.NewRing(mem, 0, size, features)
			if err != nil {
				t.Fatal(err)
			}
			header, err := mem.Bytes(headers, 64)
			if err != nil {
				t.Fatal(err)
			}
			driver.PutHeader(header, driver.TypeIn, 0)
			// Half of them in as many pieces as it takes, the others in one.
			long := make([]driver.Buffer, 126)
			for i := range long {
				long[i] = driver.Buffer{GuestAddr: data, Len: 512}
			}
			long = append(long, driver.Buffer{GuestAddr: headers + 32, Len: 1})
			short := []driver.Buffer{{GuestAddr: data, Len: 512}, {GuestAddr: headers + 32, Len: 1}}
			for i := range size {
				in, table := short, driver.Buffer{GuestAddr: tables, Len: 16 * 128}
				if i%2 == 0 {
					in, table.GuestAddr = long, tables+16*128
				}
				if _, err := ring.AddIndirect(0, table, []driver.Buffer{{GuestAddr: headers, Len: 16}}, in, 0); err != nil {
					t.Fatal(err)
				}
			}
			ring.Publish()
			l := ring.Config()
			kick := newEventFD(t)
			gate.shut.Store(true)
			before := heapBytes()
			for i := range queues {
				err := r.dev.StartQueue(i, transport.Ring{
					Size: size, Desc: fuzzUser + l.Desc, Avail: fuzzUser + l.Avail, Used: fuzzUser + l.Used,
					Base: ringStart(features), Features: features, Mem: mem, Kick: kick, Call: -1, Err: -1, LogCall: -1,
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			gate.wait(queues * 100)
			for i := range queues { // all have taken what they may
				for r.dev.workers[i].left.Load() == 0 {
					runtime.Gosched()
				}
			}
			if got := heapBytes() - before; got > queues*perQueue {
				t.Errorf("%d MiB for %d queues, at most %d", got>>20, queues, queues*perQueue>>20)
			} else {
				t.Logf("%d KiB a queue", got/queues>>10)
			}
			for _, w := range r.dev.workers {
				w.stopping.Store(true) // what waits in the rings is of no interest
			}
			gate.open()
			for i := range queues {
				r.dev.StopQueue(i, "the test")
			}
		})
	}
}

func ringStart(features uint64) uint32 {
	if features&driver.FeatureRingPacked != 0 {
		return recovery.PackedStart
	}
	return 0
}

// A ring with more requests than may be in flight is served to its end, and sleeps
// meanwhile.
func TestMoreRequestsThanTheTableHas(t *testing.T) {
	for name, packed := range map[string]bool{"split": false, "packed": true} {
		t.Run(name, func(t *testing.T) {
			const n = 3 * maxRequests
			r := plainRig(t, 1)
			gate := r.newGate()
			g := r.connect(frontend.Options{QueueSize: 4 * maxRequests, Depth: n, BufferBytes: 512, Packed: packed})
			q := g.Queue(0)
			gate.shut.Store(true)
			for range n {
				req := q.Get()
				req.Type, req.Sector = driver.TypeIn, 0
				req.SetLen(512)
				if err := q.Submit(req); err != nil {
					t.Fatal(err)
				}
			}
			if err := q.Kick(); err != nil {
				t.Fatal(err)
			}
			gate.wait(maxRequests)
			if held := gate.held.Load(); held != maxRequests {
				t.Errorf("%d in flight", held)
			}
			gate.open()
			done := make([]*frontend.Request, n)
			for back := 0; back < n; {
				k, err := q.Wait(done)
				if err != nil {
					t.Fatal(err)
				}
				for _, req := range done[:k] {
					if req.Status != driver.StatusOK {
						t.Fatal(driver.StatusString(req.Status))
					}
					q.Put(req)
				}
				back += k
			}
			g.leave()
		})
	}
}

// Requests that are more than a driver was told it may send are refused, and one that
// took neither limit may send 1 GiB.
func TestRequestLimits(t *testing.T) {
	const (
		sizeMax = 4 << 20
		segMax  = 126
		limits  = driver.BlkSizeMax | driver.BlkSegMax
	)
	type buffers []driver.Buffer
	many := func(n int, size uint32) (b buffers) {
		for range n {
			b = append(b, driver.Buffer{Len: size})
		}
		return b
	}
	for _, c := range []struct {
		name    string
		without uint64
		data    buffers
		status  byte
	}{
		{"seg_max segments", 0, many(segMax, 512), driver.StatusOK},
		{"one more", 0, many(segMax+1, 512), driver.StatusIOErr},
		{"one more, of a driver that has not taken SEG_MAX", limits, many(segMax+1, 512), driver.StatusOK},
		{"a segment of size_max", 0, many(1, sizeMax), driver.StatusOK},
		{"a longer one", 0, many(1, sizeMax+512), driver.StatusIOErr},
		{"a longer one, of a driver that has not taken SIZE_MAX", limits, many(1, sizeMax+512), driver.StatusOK},
		{"1 GiB and a sector", limits, many(2, 512<<20+256), driver.StatusIOErr},
		{"1 GiB and a sector, in segments that are short enough", driver.BlkSegMax, append(many(256, sizeMax), driver.Buffer{Len: 512}), driver.StatusIOErr},
	} {
		for _, typ := range []uint32{driver.TypeIn, driver.TypeOut} {
			t.Run(c.name, func(t *testing.T) {
				path := t.TempDir() + "/disk.raw"
				if err := unix.Mknod(path, unix.S_IFREG|0o600, 0); err != nil {
					t.Fatal(err)
				}
				if err := unix.Truncate(path, 4<<30); err != nil {
					t.Fatal(err)
				}
				r := newRig(t, path, 1)
				g := r.connect(frontend.Options{Without: c.without})
				q := g.Queue(0)
				// All of the data is in one place, whatever its length.
				const at = frontend.GuestBase + 1<<40
				size := uint64(0)
				for i := range c.data {
					c.data[i].GuestAddr = at
					size = max(size, uint64(c.data[i].Len))
				}
				region, err := g.AddRegion(guestmem.RegionDesc{GuestAddr: at, Size: (size + 4095) &^ 4095, UserAddr: frontend.UserBase + 1<<40})
				if err != nil {
					t.Fatal(err)
				}
				addr, b, err := g.Memory.Alloc(64+16*512, 64)
				if err != nil {
					t.Fatal(err)
				}
				driver.PutHeader(b, typ, 0)
				b[32] = driver.StatusNone
				out, in := []driver.Buffer{{GuestAddr: addr, Len: 16}}, []driver.Buffer{{GuestAddr: addr + 32, Len: 1}}
				if typ == driver.TypeIn {
					in = append(append([]driver.Buffer{}, c.data...), in...)
				} else {
					out = append(out, c.data...)
				}
				q.Ring().DisableCalls()
				if _, err := q.Ring().AddIndirect(0, driver.Buffer{GuestAddr: addr + 64, Len: uint32(16 * (len(out) + len(in)))}, out, in, 0); err != nil {
					t.Fatal(err)
				}
				q.Ring().Publish()
				g.drained(-1)
				if b[32] != c.status {
					t.Errorf("status %s, want %s\n%s", driver.StatusString(b[32]), driver.StatusString(c.status), r.book)
				}
				if c.status != driver.StatusOK {
					r.logged("more data than the device takes in one request")
				}
				g.vanish()
				_ = region.Close()
			})
		}
	}
}
