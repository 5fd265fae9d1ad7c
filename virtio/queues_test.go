package virtio_test

import (
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// num_queues is what the front-end has, and what tells one disk from another does not hang
// on it.
func TestShowQueues(t *testing.T) {
	b, err := virtio.NewBlk(plainDisk(), virtio.BlkOptions{Queues: 4})
	if err != nil {
		t.Fatal(err)
	}
	shown := func() uint16 {
		t.Helper()
		var space [virtio.BlkConfigBytes]byte
		if err := b.ReadConfig(space[:], 0); err != nil {
			t.Fatal(err)
		}
		c, err := driver.ParseBlkConfig(space[:])
		if err != nil {
			t.Fatal(err)
		}
		return c.NumQueues
	}
	space := b.ConfigSpace()
	if n := shown(); n != 4 {
		t.Errorf("%d queues", n)
	}
	b.ShowQueues(2)
	b.Reset()
	if n := shown(); n != 2 || b.ConfigSpace() != space {
		t.Errorf("%d queues", n)
	}
	b.BeginFrontEnd()
	if n := shown(); n != 4 {
		t.Errorf("%d queues for the next front-end", n)
	}
}
