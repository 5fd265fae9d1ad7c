package testlog

import (
	"bytes"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/internal/logging"
)

// A Book is a log that a test can look into.
type Book struct {
	mu   sync.Mutex
	text bytes.Buffer
	Grew chan struct{} // has an entry when something was written
}

// New makes a log of all levels, and the book that it writes.
func New() (*logrus.Logger, *Book) {
	b := &Book{Grew: make(chan struct{}, 1)}
	l := logrus.New()
	l.SetOutput(b)
	l.SetLevel(logrus.DebugLevel)
	l.SetFormatter(&logging.Formatter{Journal: true})
	return l, b
}

// Write implements io.Writer.
func (b *Book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.Grew <- struct{}{}:
	default:
	}
	return b.text.Write(p)
}

// String is what the log says.
func (b *Book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Wait returns when the log has n lines with words in them.
func (b *Book) Wait(n int, words string) {
	for strings.Count(b.String(), words) < n {
		<-b.Grew
	}
}
