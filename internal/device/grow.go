package device

import (
	"sync"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/internal/logging"
)

// A watch notifies the session, if there is one, that the configuration space has changed.
type watch struct {
	mu      sync.Mutex
	changed func() (notified bool)
}

// notify calls the session, if there is one, and reports whether it notified the front-end.
func (w *watch) notify() (notified bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed != nil && w.changed()
}

// Watch implements transport.Device. A session begins or ends with it.
func (d *Device) Watch(changed func() (notified bool)) {
	d.custody.logged = 0
	d.watch.mu.Lock()
	defer d.watch.mu.Unlock()
	d.watch.changed = changed
}

// Grow makes the disk as large as its file has become, and notifies the guest, even if the
// size is as before: the previous process may have died between growing the disk and the
// notification. notified reports whether a front-end was connected that could be notified;
// one that connects later reads the size anyway. Any goroutine may call it.
func (d *Device) Grow() (from, to uint64, notified bool, err error) {
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
