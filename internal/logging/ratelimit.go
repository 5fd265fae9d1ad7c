package logging

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// A guest can make requests fail as fast as it can send them. The log shows the
// first errors of each window, and how many more there were.
const (
	errorWindow   = 10 * time.Second
	ErrorsAWindow = 10
)

// Errors writes request errors to the log, at most ErrorsAWindow in each
// errorWindow. It may be used from any goroutine.
type Errors struct {
	log logrus.FieldLogger
	// now and later are time.Now and time.AfterFunc, but in tests.
	now   func() time.Time
	later func(time.Duration, func())

	mu      sync.Mutex
	since   time.Time // when the window began
	shown   int
	dropped uint64
}

func NewErrors(log logrus.FieldLogger) *Errors {
	return &Errors{
		log:   log,
		now:   time.Now,
		later: func(d time.Duration, f func()) { time.AfterFunc(d, f) },
	}
}

// Error logs err, or counts it.
func (l *Errors) Error(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if now.Sub(l.since) >= errorWindow {
		l.sum()
		l.since, l.shown = now, 0
	}
	if l.shown < ErrorsAWindow {
		l.shown++
		l.log.Error(err)
		return
	}
	if l.dropped == 0 {
		// Should the errors stop here, the count is still told.
		l.later(errorWindow-now.Sub(l.since), l.Flush)
	}
	l.dropped++
}

// Flush tells how many errors were not shown, if any.
func (l *Errors) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum()
}

func (l *Errors) sum() {
	if l.dropped > 0 {
		l.log.Errorf("%d more request errors like these were not shown", l.dropped)
		l.dropped = 0
	}
}
