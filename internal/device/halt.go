package device

import (
	"fmt"
	"time"
)

// beginHalt has the worker take no more requests. It may be called again.
func (w *worker) beginHalt() {
	if w.stopping.Swap(true) {
		return
	}
	close(w.goes)
	w.lane.Hurry(w.dev.disk)
	w.lane.Wake()
}

// halt ends the worker once all that it took from the ring is answered, and returns the
// point at which the ring continues. why is what waits for it.
func (w *worker) halt(why string) (base uint32) {
	w.beginHalt()
	late, look := time.NewTimer(w.dev.patience), time.NewTicker(100*time.Millisecond)
	defer late.Stop()
	defer look.Stop()
	for {
		select {
		case <-w.stopped:
			return w.queue.Base()
		case <-late.C:
			w.logLate(why)
		case <-look.C:
			w.unstick()
			for _, other := range w.dev.workers { // w may wait for what they have in flight
				if other != nil {
					other.unstick()
				}
			}
		}
	}
}

// logLate logs what waits for which requests: the front-end, and its guest, may be waiting
// for the answer to a message.
func (w *worker) logLate(why string) {
	requests := "requests"
	switch n := w.left.Load(); {
	case n == 1:
		requests = "1 request"
	case n > 1:
		requests = fmt.Sprintf("%d requests", n)
	}
	w.dev.log.Warnf("queue %d: %s waits for %s that the disk has not answered for %v: they must be waited for; look after the disk", w.index, why, requests, w.dev.patience)
	if w.dev.recovery.GiveUp() {
		w.dev.log.Warnf("queue %d: it may wait in vain for requests that were in flight in other queues when another zvhost died: those queues were never started, and their requests are given up", w.index)
	}
}
