package daemon

import (
	"io"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/engine"
)

func TestChooseEngine(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	for asked, want := range map[engine.Kind]engine.Kind{
		"": engine.KindUring, engine.KindUring: engine.KindUring, engine.KindNative: engine.KindNative, engine.KindThreads: engine.KindThreads,
	} {
		if got, err := chooseEngine(asked, backend.Info{}, engine.Kind.Probe, log); err != nil || got != want {
			t.Errorf("%q: %q, %v", asked, got, err)
		}
	}
}

// drive is a zoned drive of the host.
var drive = backend.Info{Zoned: &backend.ZonedInfo{Moves: true}}

// A kernel without io_uring costs one line in the log, unless it was asked for.
func TestChooseWithoutUring(t *testing.T) {
	none := func(k engine.Kind) error {
		if k == engine.KindThreads {
			return nil
		}
		return unix.ENOSYS
	}
	var said strings.Builder
	log := logrus.New()
	log.SetOutput(&said)
	for _, disk := range []backend.Info{{}, drive} {
		said.Reset()
		if got, err := chooseEngine("", disk, none, log); err != nil || got != engine.KindThreads || strings.Count(said.String(), "\n") != 1 {
			t.Errorf("%q, %v, said %q", got, err, said.String())
		}
	}
	if got, err := chooseEngine("", drive, engine.Kind.Probe, log); err != nil || got != engine.KindNative {
		t.Errorf("a zoned drive is served by %q, %v", got, err)
	}
	if _, err := chooseEngine("", drive, func(engine.Kind) error { return unix.ENOSYS }, log); err == nil {
		t.Error("no engine at all is no error")
	}
	for _, kind := range []engine.Kind{engine.KindUring, engine.KindNative} {
		if _, err := chooseEngine(kind, backend.Info{}, none, log); err == nil || !strings.Contains(err.Error(), "--aio="+string(kind)) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
