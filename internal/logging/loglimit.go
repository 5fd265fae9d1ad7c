package logging

import (
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// A front-end can connect, and do what is logged, as fast as it likes. Of lines of one
// kind the log shows LineBurst at once and one each linePeriod after that, whatever the
// number of sessions they come from, and how many it did not show.
const (
	LineBurst  = 50
	linePeriod = time.Second
	// lineFlush is how long after the first line that is not shown the log says so, where
	// no line does before.
	lineFlush = 10 * time.Second
)

// Lines writes lines to the log, as many as that. It may be used from any
// goroutine. Lines for debugging were asked for, and are not limited.
type Lines struct {
	log logrus.FieldLogger
	// now and later are time.Now and time.AfterFunc, but in tests.
	now   func() time.Time
	later func(time.Duration, func())

	mu    sync.Mutex
	kinds map[string]*lineKind // by format
}

// A lineKind is what came of lines of one format.
type lineKind struct {
	level   logrus.Level
	tokens  float64 // lines that may be shown now
	since   time.Time
	dropped uint64
	last    string // of those that were dropped
}

func NewLines(log logrus.FieldLogger) *Lines {
	return &Lines{
		log:   log,
		now:   time.Now,
		later: func(d time.Duration, f func()) { time.AfterFunc(d, f) },
		kinds: map[string]*lineKind{},
	}
}

// Logf logs a line. Its kind is its format, which must be one of few.
func (l *Lines) Logf(level logrus.Level, format string, args ...any) {
	if level >= logrus.DebugLevel {
		l.log.Debugf(format, args...)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	k := l.kinds[format]
	if k == nil {
		k = &lineKind{level: level, tokens: LineBurst, since: now}
		l.kinds[format] = k
	}
	k.tokens = min(k.tokens+float64(now.Sub(k.since))/float64(linePeriod), LineBurst)
	k.since = now
	if k.tokens >= 1 {
		k.tokens--
		l.sum(k)
		l.write(level, format, args...)
		return
	}
	if k.dropped == 0 {
		l.later(lineFlush, func() { // should such lines stop here, the count is still told
			l.mu.Lock()
			defer l.mu.Unlock()
			l.sum(k)
		})
	}
	k.dropped++
	k.last = fmt.Sprintf(format, args...)
}

// Flush tells what was not shown.
func (l *Lines) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.kinds {
		l.sum(k)
	}
}

func (l *Lines) sum(k *lineKind) {
	if k.dropped > 0 {
		l.write(k.level, "%d more lines like this were not shown: %s", k.dropped, k.last)
		k.dropped, k.last = 0, ""
	}
}

func (l *Lines) write(level logrus.Level, format string, args ...any) {
	switch level {
	case logrus.InfoLevel:
		l.log.Infof(format, args...)
	case logrus.WarnLevel:
		l.log.Warnf(format, args...)
	default:
		l.log.Errorf(format, args...)
	}
}
