package daemon

import (
	"sync"

	"github.com/zvhost/zvhost/backend"
)

// A watch is who wants to hear of a changed configuration space: the session, if
// there is one.
type watch struct {
	mu      sync.Mutex
	changed func() (told bool)
}

// Watch implements vhostuser.Device.
func (d *Device) Watch(changed func() (told bool)) {
	d.watch.mu.Lock()
	defer d.watch.mu.Unlock()
	d.watch.changed = changed
}

// Grow has the disk take in what its file has grown by, and tells the guest, also
// of a size that it may know: it may have grown while another process died. told
// says whether a front-end was there that could be told; one that comes later sees
// the size anyway. Any goroutine may call it.
func (d *Device) Grow() (from, to uint64, told bool, err error) {
	d.watch.mu.Lock() // one at a time, and none after Watch(nil)
	defer d.watch.mu.Unlock()
	from = d.disk.Info().CapacitySectors
	to, err = backend.Grow(d.disk)
	if err != nil {
		return from, to, false, err
	}
	d.SetCapacity(to)
	if d.watch.changed != nil {
		told = d.watch.changed()
	}
	return from, to, told, nil
}
