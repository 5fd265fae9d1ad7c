package device

import (
	"io"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/logging"
)

func TestChooseEngine(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	for asked, want := range map[engine.Kind]engine.Kind{
		"": engine.KindUring, engine.KindUring: engine.KindUring, engine.KindNative: engine.KindNative, engine.KindThreads: engine.KindThreads,
	} {
		if got, err := ChooseEngine(asked, disk.Info{}, engine.Kind.Probe, log); err != nil || got != want {
			t.Errorf("%q: %q, %v", asked, got, err)
		}
	}
}

// drive is a zoned drive of the host.
var drive = disk.Info{Zoned: &disk.ZonedInfo{Moves: true}}

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
	for _, dk := range []disk.Info{{}, drive} {
		said.Reset()
		if got, err := ChooseEngine("", dk, none, log); err != nil || got != engine.KindThreads || strings.Count(said.String(), "\n") != 1 {
			t.Errorf("%q, %v, said %q", got, err, said.String())
		}
	}
	if got, err := ChooseEngine("", drive, engine.Kind.Probe, log); err != nil || got != engine.KindNative {
		t.Errorf("a zoned drive is served by %q, %v", got, err)
	}
	if _, err := ChooseEngine("", drive, func(engine.Kind) error { return unix.ENOSYS }, log); err == nil {
		t.Error("no engine at all is no error")
	}
	for _, kind := range []engine.Kind{engine.KindUring, engine.KindNative} {
		if _, err := ChooseEngine(kind, disk.Info{}, none, log); err == nil || !strings.Contains(err.Error(), "--aio="+string(kind)) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// A queue that the kernel has no engine left for is served all the same, unless the
// engine was asked for.
func TestOrThreads(t *testing.T) {
	var said strings.Builder
	log := logrus.New()
	log.SetOutput(&said)
	open := orThreads(func(func()) (engine.Engine, error) { return nil, unix.EAGAIN }, logging.NewErrors(log))
	e, err := open(func() {})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := e.(*engine.Threads); !ok || strings.Count(said.String(), "\n") != 1 {
		t.Errorf("%T, said %q", e, said.String())
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for _, or := range []bool{false, true} {
		d, err := New(newNull(t), Options{Queues: 1, Engine: "none", OrThreads: or, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := d.engine(func() {}); (err == nil) != or {
			t.Errorf("with OrThreads %v: %v", or, err)
		} else if err == nil && e.Close() != nil {
			t.Error("not closed")
		}
	}
}

func newNull(t *testing.T) disk.Disk {
	d, err := backend.NewNull(2048)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}
