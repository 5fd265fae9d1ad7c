package virtio_test

import (
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// What another process had taken is marked in the log as well when it is answered.
func TestRetakenChainIsLogged(t *testing.T) {
	g := newRig(t, 4, allRing, 0)
	head, err := g.ring.Add(nil, []driver.Buffer{{GuestAddr: seam, Len: 8}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	g.ring.Publish()
	log := guestmem.HeapLog(memEnd / guestmem.LogPageBytes / 8)
	cfg := ringConfig(g.mem, g.ring, allRing)
	cfg.Log, cfg.UsedLog = log, guestmem.Unlogged
	q, err := virtio.NewSplit(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var c virtio.Chain
	if err := q.Retake(head, &c); err != nil || c.InBytes != 8 {
		t.Fatal(c, err)
	}
	q.Push(head, 8)
	if !log.Dirty(seam / guestmem.LogPageBytes) {
		t.Error("the page is not marked")
	}
}
