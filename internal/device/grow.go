package device

import (
	"sync"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/internal/logging"
)

// A watch is who wants to hear of a changed configuration space: the session, if
// there is one.
type watch struct {
	mu      sync.Mutex
	changed func() (told bool)
}

// notify calls the session, if there is one.
func (w *watch) notify() (notified bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed != nil && w.changed()
}

// Watch implements transport.Device. A session begins or ends with it.
func (d *Device) Watch(changed func() (told bool)) {
	d.custody.logged = 0
	d.watch.mu.Lock()
	defer d.watch.mu.Unlock()
	d.watch.changed = changed
}

// Grow has the disk take in what its file has grown by, and tells the guest, also
// of a size that it may know: it may have grown while another process died. told
// says whether a front-end was there that could be told; one that comes later sees
// the size anyway. Any goroutine may call it.
func (d *Device) Grow() (from, to uint64, told bool, err error) {
	disk, done := d.Borrow()
	defer done()
	d.growing.Lock() // one at a time
	defer d.growing.Unlock()
	from = disk.Info().CapacitySectors
	to, err = backend.Grow(disk)
	if err != nil {
		return from, to, false, err
	}
	d.SetCapacity(to)
	if to != from {
		d.log.Infof("the disk has grown from %s to %s", logging.Size(from), logging.Size(to))
	}
	return from, to, d.watch.notify(), nil
}
