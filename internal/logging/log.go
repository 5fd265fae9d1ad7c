package logging

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// New returns the daemon's log on w. A level is one of logrus' names:
// trace, debug, info, warning, error. When w is what JOURNAL_STREAM names, each
// line carries a priority for the journal and no time, since the journal has
// one.
func New(w io.Writer, level string) (*logrus.Logger, error) {
	lvl, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("--log-level=%s: must be error, warning, info or debug", level)
	}
	l := logrus.New()
	l.SetOutput(w)
	l.SetLevel(lvl)
	l.SetFormatter(&Formatter{Journal: toJournal(w, os.Getenv("JOURNAL_STREAM"))})
	return l, nil
}

// toJournal says whether w is the stream that the service manager connected to
// the journal (systemd.exec(5), $JOURNAL_STREAM: device and inode number).
func toJournal(w io.Writer, stream string) bool {
	f, ok := w.(*os.File)
	dev, ino, found := strings.Cut(stream, ":")
	if !ok || !found {
		return false
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return dev == strconv.FormatUint(st.Dev, 10) && ino == strconv.FormatUint(st.Ino, 10)
}

// Formatter writes one line an entry: the time and the level, or for the
// journal a priority (sd-daemon(3)), then the message, then its fields.
type Formatter struct{ Journal bool }

func (f *Formatter) Format(e *logrus.Entry) ([]byte, error) {
	var b bytes.Buffer
	if f.Journal {
		fmt.Fprintf(&b, "<%d>", priority(e.Level))
	} else {
		fmt.Fprintf(&b, "%s %-7s ", e.Time.Format("2006-01-02 15:04:05.000"), e.Level)
	}
	b.WriteString(oneLine(e.Message))
	for _, k := range slices.Sorted(maps.Keys(e.Data)) {
		fmt.Fprintf(&b, " %s=%s", k, fieldValue(e.Data[k]))
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// priority is the syslog priority of a level.
func priority(l logrus.Level) int {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel:
		return 2
	case logrus.ErrorLevel:
		return 3
	case logrus.WarnLevel:
		return 4
	case logrus.InfoLevel:
		return 6
	}
	return 7
}

// oneLine keeps what a guest or front-end had a hand in from forging log lines
// or driving a terminal.
func oneLine(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) < 0 {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

func fieldValue(v any) string {
	s := fmt.Sprint(v)
	if s == "" || strings.ContainsAny(s, " =\"") || oneLine(s) != s {
		return strconv.Quote(s)
	}
	return s
}

// Size writes a number of sectors as people write sizes: in the largest unit that it
// is a whole number of.
func Size(sectors uint64) string {
	unit, n := 0, sectors
	const units = "KMGTPE"
	if n%2 != 0 {
		return fmt.Sprintf("%d bytes", n*512)
	}
	for n /= 2; n != 0 && n%1024 == 0 && unit < len(units)-1; unit++ {
		n /= 1024
	}
	return fmt.Sprintf("%d %ciB", n, units[unit])
}
