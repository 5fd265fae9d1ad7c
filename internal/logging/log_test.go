package logging

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

func TestLogLines(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, "info")
	if err != nil {
		t.Fatal(err)
	}
	log.WithField("zone", 3).Warn("a line")
	log.Debug("not at this level")
	want := regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} warning a line zone=3\n$`)
	if !want.MatchString(out.String()) {
		t.Errorf("the log says %q", out.String())
	}
	if _, err := New(&out, "loud"); err == nil || !strings.Contains(err.Error(), "--log-level=loud") {
		t.Errorf("a level that does not exist: %v", err)
	}
}

// A guest has a hand in what is logged. It must not be able to forge lines.
func TestLogLinesCannotBeForged(t *testing.T) {
	f := Formatter{Journal: true}
	b, err := f.Format(&logrus.Entry{Level: logrus.ErrorLevel, Message: "serial A\n<0>forged\x1b[2J\xff", Data: logrus.Fields{"k": "v w", "a": ""}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(b), `<3>serial A\n<0>forged\x1b[2J\xff a="" k="v w"`+"\n"; got != want {
		t.Errorf("the line is %q, want %q", got, want)
	}
}

// For the journal, lines carry a priority and no time of their own.
func TestJournalStream(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	stream := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	for _, tt := range []struct {
		stream string
		want   bool
	}{{stream, true}, {"", false}, {"1", false}, {stream + "1", false}} {
		if got := toJournal(f, tt.stream); got != tt.want {
			t.Errorf("JOURNAL_STREAM=%q: %v", tt.stream, got)
		}
	}
	t.Setenv("JOURNAL_STREAM", stream)
	log, err := New(f, "debug")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("serving")
	log.Debug("a message")
	b, err := os.ReadFile(f.Name())
	if want := "<6>serving\n<7>a message\n"; err != nil || string(b) != want {
		t.Errorf("the log is %q, %v, want %q", b, err, want)
	}
}

func TestErrorLogIsLimited(t *testing.T) {
	log, book := newPage()
	now := time.Unix(1000, 0)
	var later []func()
	l := NewErrors(log)
	l.now = func() time.Time { return now }
	l.later = func(_ time.Duration, f func()) { later = append(later, f) }

	burst := func(n int) {
		for range n {
			l.Error(errors.New("a request failed"))
		}
	}
	lines := func() int { return strings.Count(book.String(), "a request failed\n") }
	burst(1000)
	if got := lines(); got != ErrorsAWindow {
		t.Fatalf("%d lines of a burst, want %d", got, ErrorsAWindow)
	}
	if len(later) != 1 {
		t.Fatalf("%d timers were set, want 1", len(later))
	}
	later[0]()
	if want := "990 more request errors"; !strings.Contains(book.String(), want) {
		t.Fatalf("no %q in %s", want, book)
	}
	// The next window shows errors again, and tells first what was kept back.
	burst(5)
	now = now.Add(errorWindow)
	burst(3)
	if got, want := lines(), ErrorsAWindow+3; got != want {
		t.Errorf("%d lines, want %d", got, want)
	}
	if want := "<3>5 more request errors like these were not shown\n<3>a request failed"; !strings.Contains(book.String(), want) {
		t.Errorf("no %q in %s", want, book)
	}
	before := book.String()
	l.Flush()
	if book.String() != before {
		t.Error("nothing was kept back, but Flush said something")
	}
}

func TestSizeOf(t *testing.T) {
	for sectors, want := range map[uint64]string{
		0: "0 KiB", 1: "512 bytes", 2: "1 KiB", 3: "1536 bytes", 2047: "1048064 bytes", 2048: "1 MiB", 6 << 20: "3 GiB", 16<<20 + 2: "8388609 KiB", 1 << 54: "8 EiB",
	} {
		if got := Size(sectors); got != want {
			t.Errorf("%d sectors: %q, want %q", sectors, got, want)
		}
	}
}
