package device

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// faultiness is what went wrong with a device's rings since it was reset. Workers
// write it, the session's goroutine reads it.
type faultiness struct {
	broken  atomic.Bool // a ring of it is broken
	missing atomic.Bool // that guest memory was missing is logged
}

// broken logs that the ring cannot be served any more, and notifies the front-end. A
// front-end can set the ring up and break it as often as it likes, so the line is
// rate-limited.
func (w *worker) broken(err error) {
	w.dev.errs.Error(fmt.Errorf("queue %d is broken and is not served until the front-end sets it up anew: %w", w.index, err))
	w.dev.logMissingMemory(w.index, w.ring.NoMemory, err)
	w.dev.needReset()
	w.notify.Lock()
	defer w.notify.Unlock()
	w.bad = true
	signalFD(w.ring.Err)
}

// needReset makes NeedsReset true, and has the driver notified ("Device Status
// Field": "If DRIVER_OK is set, after it sets DEVICE_NEEDS_RESET, the device MUST send a
// device configuration change notification").
func (d *Device) needReset() {
	if !d.faulty.broken.Swap(true) {
		d.watch.notify()
	}
}

// NeedsReset implements transport.Device.
func (d *Device) NeedsReset() bool { return d.faulty.broken.Load() }

// logMissingMemory logs, once in a session, that a request names guest memory that is not
// there, and what the transport advises.
func (d *Device) logMissingMemory(queue int, remedy string, err error) {
	var missing *guestmem.MissingError
	if !errors.As(err, &missing) || d.faulty.missing.Swap(true) {
		return
	}
	line := fmt.Errorf("queue %d: a request names guest memory at %#x that the front-end has not shared, and fails, as all like it will", queue, missing.Addr)
	if remedy != "" {
		line = fmt.Errorf("%w: %s", line, remedy)
	}
	d.errs.Error(line)
}
