package device

import (
	"sync"
	"testing"

	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A queue that is to stop takes nothing more from its ring, not even the rest of what it
// is taking: a guest can fill a ring with chains that take minutes to look through.
func TestStoppingQueueTakesNothingMore(t *testing.T) {
	for name, features := range map[string]uint64{"split": 0, "packed": driver.FeatureRingPacked} {
		t.Run(name, func(t *testing.T) {
			const size, at = 16, 0x8000
			mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{Size: 1 << 16, UserAddr: fuzzUser})})
			if err != nil {
				t.Fatal(err)
			}
			ring, err := driver.NewRing(mem, 0, size, features)
			if err != nil {
				t.Fatal(err)
			}
			base := ring.Base()
			b, err := mem.Bytes(at, 16)
			if err != nil {
				t.Fatal(err)
			}
			driver.PutHeader(b, driver.TypeIn, 0)
			for range 3 {
				if _, err := ring.Add([]driver.Buffer{{GuestAddr: at, Len: 16}}, []driver.Buffer{{GuestAddr: at + 64, Len: 513}}, 0); err != nil {
					t.Fatal(err)
				}
			}
			ring.Publish()
			r := plainRig(t, 1)
			taken := make(chan struct{})
			r.dev.engine = func(wake func()) (engine.Engine, error) {
				return &hookedEngine{Threads: engine.NewThreads(1, wake), first: func() {
					r.dev.BeginStop(0)
					close(taken)
				}}, nil
			}
			l := ring.Config()
			if err := r.dev.StartQueue(0, transport.Ring{
				Size: size, Desc: fuzzUser + l.Desc, Avail: fuzzUser + l.Avail, Used: fuzzUser + l.Used,
				Base: base, Features: features, Mem: mem, Kick: newEventFD(t), Call: -1, Err: -1, LogCall: -1,
			}); err != nil {
				t.Fatal(err)
			}
			<-taken
			r.dev.StopQueue(0, "the test")
			n := 0
			for _, ok := ring.Next(); ok; _, ok = ring.Next() {
				n++
			}
			if n != 1 || ring.Err() != nil {
				t.Errorf("%d requests were taken, %v", n, ring.Err())
			}
		})
	}
}

// A hookedEngine calls first before its first operation.
type hookedEngine struct {
	*engine.Threads
	once  sync.Once
	first func()
}

func (e *hookedEngine) Queue(op *engine.Op) {
	e.once.Do(e.first)
	e.Threads.Queue(op)
}
