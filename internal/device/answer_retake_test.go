package device

import (
	"fmt"
	"testing"

	"github.com/zvhost/zvhost/internal/recovery"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A process dies with requests in flight, and the front-end takes memory away before
// the next one goes on with them: what names that memory fails, what does not is
// carried out, and what cannot be answered breaks the ring once the rest is.
func TestRetakenRequestsWithoutTheirMemory(t *testing.T) {
	for name, features := range map[string]uint64{"split": 0, "packed": driver.FeatureRingPacked} {
		for _, last := range []bool{false, true} { // a chain without a place for its status is the last one, or not there
			t.Run(fmt.Sprintf("%s, one that cannot be answered: %v", name, last), func(t *testing.T) {
				const size, gone, at = 32, 1 << 20, 0x8000
				stays := guestmem.Heap(guestmem.RegionDesc{Size: 1 << 16, UserAddr: fuzzUser})
				goes := guestmem.Heap(guestmem.RegionDesc{GuestAddr: gone, Size: 1 << 16, UserAddr: fuzzUser + gone})
				before, err := guestmem.New([]*guestmem.Region{stays, goes})
				if err != nil {
					t.Fatal(err)
				}
				after, err := guestmem.New([]*guestmem.Region{stays})
				if err != nil {
					t.Fatal(err)
				}
				ring, err := driver.NewRing(before, 0, size, features)
				if err != nil {
					t.Fatal(err)
				}
				b, err := before.Bytes(at, 0x4000)
				if err != nil {
					t.Fatal(err)
				}
				driver.PutHeader(b, driver.TypeOut, 0)
				driver.PutHeader(b[16:], driver.TypeFlush, 0)
				status := b[64:68]
				for i := range status {
					status[i] = driver.StatusNone
				}
				add := func(out []driver.Buffer, status driver.Buffer) {
					if _, err := ring.Add(out, []driver.Buffer{status}, 0); err != nil {
						t.Fatal(err)
					}
				}
				write := driver.Buffer{GuestAddr: at, Len: 16}
				add([]driver.Buffer{write, {GuestAddr: gone, Len: 512}}, driver.Buffer{GuestAddr: at + 64, Len: 1})
				if last {
					add([]driver.Buffer{write, {GuestAddr: at, Len: 512}}, driver.Buffer{GuestAddr: gone, Len: 1})
				}
				add([]driver.Buffer{{GuestAddr: at + 16, Len: 16}}, driver.Buffer{GuestAddr: at + 65, Len: 1})
				ring.Publish()

				l := ring.Config()
				r := transport.Ring{
					Size: size, Desc: fuzzUser + l.Desc, Avail: fuzzUser + l.Avail, Used: fuzzUser + l.Used,
					Base: map[bool]uint32{true: recovery.PackedStart}[features != 0], Features: features, Mem: before, Call: -1, Err: -1, LogCall: -1, Life: 1,
				}
				rec := takenBy(t, r)
				defer func() {
					if err := rec.Close(); err != nil {
						t.Error(err)
					}
				}()
				rig := plainRig(t, 1)
				rig.dev.Adopt(rec)
				r.Mem, r.Record, r.Records, r.Kick, r.Err = after, rec.Ring(0), rec, newEventFD(t), newEventFD(t)
				if err := rig.dev.StartQueue(0, r); err != nil {
					t.Fatal(err)
				}
				if last {
					readable(t, "the err eventfd", r.Err)
				}
				rig.dev.StopQueue(0, "the test")
				if status[0] != driver.StatusIOErr || status[1] != driver.StatusOK {
					t.Errorf("statuses %d\n%s", status, rig.book)
				}
				n := 0
				for {
					if _, ok := ring.Next(); !ok {
						break
					}
					n++
				}
				if n != 2 || ring.Err() != nil {
					t.Errorf("%d came back, %v\n%s", n, ring.Err(), rig.book)
				}
				rig.logged("a request names guest memory at 0x100000")
				if last {
					rig.logged("queue 0 is broken")
				}
				rig.dev.Reset()
			})
		}
	}
}

// takenBy is the record of a process that has died after it took all that is in a
// ring.
func takenBy(t *testing.T, r transport.Ring) *inflight.Record {
	t.Helper()
	rec, err := inflight.New(1, r.Size)
	if err != nil {
		t.Fatal(err)
	}
	q, err := virtio.NewQueue(virtio.RingConfig{Size: r.Size, Desc: r.Desc, Avail: r.Avail, Used: r.Used, Base: r.Base, Features: r.Features, Mem: r.Mem})
	if err != nil {
		t.Fatal(err)
	}
	packed, _ := q.(*virtio.Packed)
	if packed != nil {
		packed.KeepRaw()
		_, _, err = rec.Ring(0).BeginPacked(r.Start(), packed.Passed)
	} else {
		_, _, err = rec.Ring(0).Begin(r.Start(), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		var c virtio.Chain
		switch ok, err := q.Pop(&c); {
		case err != nil:
			t.Fatal(err)
		case !ok:
			return rec
		}
		if packed != nil {
			rec.Ring(0).Hold(c.Head, packed.Raw())
		}
		rec.Ring(0).Take(c.Head)
	}
}
