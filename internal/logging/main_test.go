package logging

import (
	"bytes"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// newPage is a log for the journal, and what it says.
func newPage() (*logrus.Logger, *bytes.Buffer) {
	l, text := logrus.New(), new(bytes.Buffer)
	l.SetOutput(text)
	l.SetLevel(logrus.DebugLevel)
	l.SetFormatter(&Formatter{Journal: true})
	return l, text
}
