package logging

import (
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// Lines of one kind are shown up to a number at once and one a second after that, and the
// log says how many were not; another kind has its own number.
func TestLineLimit(t *testing.T) {
	log, book := newPage()
	now := time.Unix(1000, 0)
	var later []func()
	l := NewLines(log)
	l.now = func() time.Time { return now }
	l.later = func(_ time.Duration, f func()) { later = append(later, f) }
	burst := func(n int) {
		for i := range n {
			l.Logf(logrus.WarnLevel, "front-end %d: was refused", i)
		}
	}
	shown := func() int { return strings.Count(book.String(), "<4>front-end ") }
	burst(1000)
	if shown() != LineBurst || len(later) != 1 {
		t.Errorf("%d lines of a burst, %d timers", shown(), len(later))
	}
	l.Logf(logrus.InfoLevel, "another kind")
	l.Logf(logrus.DebugLevel, "front-end %d: was refused", 5)
	if !strings.Contains(book.String(), "<6>another kind\n<7>front-end 5: ") {
		t.Errorf("in\n%s", book)
	}
	later[0]()
	if want := "<4>950 more lines like this were not shown: front-end 999: was refused\n"; !strings.Contains(book.String(), want) {
		t.Errorf("no %q in\n%s", want, book)
	}
	// Some seconds on there is room for as many lines, and what was kept back is told first.
	burst(7)
	now = now.Add(3 * linePeriod)
	burst(10)
	if got, want := shown(), LineBurst+3; got != want {
		t.Errorf("%d lines, want %d", got, want)
	}
	if want := "<4>7 more lines like this were not shown: front-end 6: was refused\n<4>front-end 0: "; !strings.Contains(book.String(), want) {
		t.Errorf("no %q in\n%s", want, book)
	}
	l.Flush()
	before := book.String()
	l.Flush()
	if !strings.Contains(before, "<4>7 more lines like this were not shown: front-end 9: ") || book.String() != before {
		t.Errorf("at the end:\n%s", book)
	}
}
