package daemon

import (
	"testing"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A guest that publishes more than its ring has entries, while all of them are
// in flight, is told so at once, and costs no more than its queue. What was in
// flight is answered.
func TestMorePublishedThanTheRingHas(t *testing.T) {
	r := plainRig(t, 1)
	gate := r.newGate()
	g := r.connect(frontend.Options{QueueSize: 4, Depth: 4, BufferBytes: 4096})
	q, errs := g.Queue(0), g.errFD(0)

	gate.shut.Store(true)
	for range 4 {
		req := q.Get()
		req.Type, req.Sector = driver.TypeIn, 0
		req.SetLen(4096)
		if err := q.Submit(req); err != nil {
			t.Fatal(err)
		}
	}
	q.Ring().Publish()
	g.kick(0)
	gate.wait(4)
	q.Ring().PutAvail(0)
	q.Ring().Publish()
	g.kick(0)
	readable(t, "the err eventfd", errs)
	r.logged("queue 0 is broken")

	gate.open()
	var done [4]*frontend.Request
	for n := 0; n < 4; {
		k, err := q.Wait(done[:])
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	g.leave()
	r.nextIsServed()
}
