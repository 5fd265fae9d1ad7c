package device

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// A kick descriptor is the front-end's. One that is readable for ever (an eventfd that
// counts down by one, EFD_SEMAPHORE, or one that is written to without end) would have
// the worker look at its ring without end. So after vainKicks kicks in a row for which
// nothing was found in the ring, the ring is looked at every kickPause, and the
// descriptor read once each time, until it is empty. It costs the front-end no more
// than time: whatever it puts into the ring is found.
const (
	vainKicks = 64
	kickPause = 10 * time.Millisecond
)

// sleep waits for a kick or something to happen on the lane, which is armed.
func (w *worker) sleep() {
	kick := w.ring.Kick
	switch {
	case w.requests.full():
		kick = -1 // what came could not be taken
	case w.vain >= vainKicks:
		if !w.loggedVain {
			w.loggedVain = true
			w.dev.errs.Error(fmt.Errorf("queue %d: its kick descriptor is signalled without end, and nothing is in the ring: it is looked at every %v until that ends", w.index, kickPause))
		}
		pause := time.AfterFunc(kickPause, w.lane.Wake)
		w.lane.Sleep(-1)
		pause.Stop()
		w.readKick()
		return
	}
	if w.lane.Sleep(kick) {
		w.readKick()
	}
}

// readKick empties the kick descriptor, without waiting. It is an eventfd, so nothing else
// than a kick can be there; should the read fail all the same, that counts as one, and what
// fails again and again as signalled without end.
func (w *worker) readKick() {
	if _, err := foreign.ReadNoWait(w.ring.Kick, w.kicks[:]); err == unix.EAGAIN || err == unix.EINTR {
		w.vain = 0
	} else if w.vain < vainKicks {
		w.vain++
	}
}
