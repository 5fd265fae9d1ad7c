package daemon

import (
	"context"
	"errors"
	"os"
	ossignal "os/signal" // signal is what a worker does to an eventfd

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// errHandOver is the cause of the end of UntilSignal's context when another
// process is to go on, where there is a service manager with an fd store: systemd
// sends SIGTERM for a restart and for a stop alike, and drops what it has kept
// after a stop. SIGINT is an end in any case.
var errHandOver = errors.New("asked to end by SIGTERM or SIGHUP")

// UntilSignal returns a context that ends with the first SIGTERM, SIGINT or
// SIGHUP. The second ends the process on the spot, for when the disk under it
// hangs; what finished flushes cover is safe then too, as after a kill -9. A
// reader of the log that goes away does not end the daemon (SIGPIPE).
func UntilSignal(parent context.Context, log logrus.FieldLogger) (ctx context.Context, stop func()) {
	ossignal.Ignore(unix.SIGPIPE)
	signals := make(chan os.Signal, 2)
	ossignal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	ctx, cancel := context.WithCancelCause(parent)
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case sig, ok := <-signals:
			if !ok {
				return
			}
			log.Infof("%v: ending, once requests in flight are finished; a second signal ends it at once", sig)
			if sig == unix.SIGINT {
				cancel(nil)
			} else {
				cancel(errHandOver)
			}
		case <-ctx.Done():
			return
		}
		if sig, ok := <-signals; ok {
			log.Errorf("%v again: ending at once, without waiting for requests in flight", sig)
			os.Exit(1)
		}
	}()
	return ctx, func() {
		ossignal.Stop(signals)
		cancel(nil)
		close(signals) // after Stop nothing is sent any more
		<-over
	}
}
