package bench

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A tally has the counts of one queue.
type tally struct {
	latency histogram
	resets  histogram
	// answered is latency.count for others to see.
	answered atomic.Uint64
	ended    int64 // when the last answer came, ns since the start
	kicks    uint64
	sleeps   uint64
}

func (t *tally) counts() *tally { return t }

// A halt ends a run before its time is over.
type halt struct {
	stop   atomic.Bool // send nothing more
	giveUp atomic.Bool // do not wait for what is in flight
}

// A looper runs the requests of one queue.
type looper interface {
	// run sends and reaps until the time is over or h stops it, and all requests are
	// answered.
	run(start time.Time, runtimeNS int64, h *halt) error
	counts() *tally
}

// A loop fills the queue up to its depth, takes the answers, and sends as many again.
type loop struct {
	tally
	queue *blkclient.Queue
	work  work
	poll  bool

	all    []*blkclient.Request // by Tag
	free   []*blkclient.Request
	back   []*blkclient.Request // the last answers
	issued []int64              // by Tag: when, ns since start
	start  time.Time
}

func newLoop(q *blkclient.Queue, w work, c *Config) *loop {
	l := &loop{queue: q, work: w, poll: c.Poll, issued: make([]int64, c.Depth), back: make([]*blkclient.Request, c.Depth)}
	for r := q.Get(); r != nil; r = q.Get() {
		r.Tag = uint64(len(l.all))
		noise(r.Buffer(), r.Tag)
		l.all = append(l.all, r)
	}
	l.free = slices.Clone(l.all)
	return l
}

// noise fills b with data that storage cannot detect as zeroes or compress.
func noise(b []byte, seed uint64) {
	state := seed + 1
	for i := range b {
		state = state*6364136223846793005 + 1442695040888963407
		b[i] = byte(state >> 56)
	}
}

func (l *loop) run(start time.Time, runtimeNS int64, h *halt) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer func() { l.kicks, l.sleeps = l.queue.Kicks, l.queue.Sleeps }()
	l.start = start
	now := int64(time.Since(start))
	for first := true; ; first = false { // a loop that starts after the end still sends once
		if (now < runtimeNS || first) && !h.stop.Load() {
			if err := l.send(now); err != nil {
				return err
			}
		}
		if l.queue.InFlight() == 0 {
			return nil
		}
		var err error
		if now, err = l.reap(); err != nil {
			return err
		}
	}
}

// send fills the queue.
func (l *loop) send(now int64) error {
	for n := len(l.free); n > 0; n-- {
		r := l.free[n-1]
		if !l.work.next(r) {
			break
		}
		l.free = l.free[:n-1]
		l.issued[r.Tag] = now
		if err := l.queue.Submit(r); err != nil {
			return err
		}
	}
	return l.queue.Kick()
}

// reap waits for answers, takes all of them, and returns the time. It reads the clock once
// for all: the latency of a request is the time from the start of sending its batch until
// the batch of its answer was seen.
func (l *loop) reap() (now int64, err error) {
	var n int
	if l.poll {
		n, err = l.queue.Spin(l.back)
	} else {
		n, err = l.queue.Wait(l.back)
	}
	now = int64(time.Since(l.start))
	if err != nil {
		return 0, fmt.Errorf("waiting for %s: %w", l.oldest(now), err)
	}
	for _, r := range l.back[:n] {
		if r.Status != driver.StatusOK {
			return 0, fmt.Errorf("%w (%d bytes)", blkclient.StatusError{Type: r.Type, Sector: r.Sector, Status: r.Status}, len(r.Data))
		}
		took := uint64(now - l.issued[r.Tag])
		if r.Type == driver.TypeZoneReset {
			l.resets.add(took, 1)
		} else {
			l.latency.add(took, 1)
		}
		l.work.done(r)
		l.free = append(l.free, r)
	}
	l.answered.Store(l.latency.count)
	l.ended = now
	return now, nil
}

// oldest describes the request in flight that was sent first.
func (l *loop) oldest(now int64) string {
	flying := make(map[uint64]bool, len(l.all))
	for _, r := range l.all {
		flying[r.Tag] = true
	}
	for _, r := range l.free {
		delete(flying, r.Tag)
	}
	var oldest *blkclient.Request
	for tag := range flying {
		if r := l.all[tag]; oldest == nil || l.issued[tag] < l.issued[oldest.Tag] {
			oldest = r
		}
	}
	if oldest == nil {
		return "nothing"
	}
	return fmt.Sprintf("the %s at sector %d, sent %s ago", driver.TypeString(oldest.Type), oldest.Sector, shortly(now-l.issued[oldest.Tag]))
}

// shortly writes nanoseconds for people, in seconds.
func shortly(ns int64) string { return fmt.Sprintf("%.1f s", time.Duration(ns).Seconds()) }
