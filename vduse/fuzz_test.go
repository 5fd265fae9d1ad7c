package vduse

import (
	"testing"

	"github.com/zvhost/zvhost/virtio/driver"
)

// FuzzSession has a kernel, and the process that set its rings up (vhost_vdpa), send anything in
// any order. Each message is answered, and afterwards a device can be used.
func FuzzSession(f *testing.F) {
	// pairs of what to do, and with what
	f.Add([]byte{1, 15, 0, 0, 1, 0})
	f.Add([]byte{1, 11, 3, 0, 4, 1, 1, 15, 0, 0, 2, 1, 2, 9, 0, 1, 1, 0})
	f.Add([]byte{3, 1, 1, 11, 4, 0, 5, 7, 1, 15, 6, 0, 2, 0, 7, 0, 8, 3, 1, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		h, g := nullHost(t, 2), newGuest(t, 2)
		p := h.serve(g.open(), false, h.options())
		g.begin(plainFeatures, 0)
		for len(script) >= 2 && len(script) < 200 {
			what, with := script[0], script[1]
			script = script[2:]
			q := &g.queues[with%2]
			switch what % 9 {
			case 0:
				g.ask(Request{Type: GetVQState, Queue: uint32(with)})
			case 1:
				if g.status&statusDriverOK == 0 || with == 0 {
					g.setStatus(with)
				}
			case 2:
				g.ask(Request{Type: UpdateIOTLB, Start: uint64(with) << 26, Last: uint64(with)<<26 + 1<<(what/9)})
			case 3:
				g.mu.Lock()
				g.features = plainFeatures ^ uint64(with)<<28
				g.mu.Unlock()
			case 4:
				g.mu.Lock()
				*q = QueueInfo{Size: ringSize, Desc: ringsAt, Driver: ringsAt + 8192, DeviceArea: ringsAt + 16384, Ready: with&4 != 0}
				g.mu.Unlock()
			case 5:
				g.mu.Lock()
				q.Size, q.Desc = uint32(with)<<(what/9), q.Desc+uint64(with)<<(what/9)
				g.mu.Unlock()
			case 6:
				g.give(int(with % 2))
			case 7:
				g.kick(int(with % 2))
			case 8:
				g.ask(Request{Type: RequestType(with)})
			}
		}
		if g.begin(plainFeatures, 0) {
			t.Fatalf("the device cannot be used any more: %q", h.log)
		}
		status, _, _ := g.do(1, driver.TypeOut, 0, fill(1, 1))
		want(t, "write", status, driver.StatusOK)
		g.setStatus(0)
		p.leave(t)
	})
}
