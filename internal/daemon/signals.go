package daemon

import (
	"context"
	"os"
	ossignal "os/signal" // signal is what a worker does to an eventfd

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// UntilSignal returns a context that ends with the first SIGTERM, SIGINT or
// SIGHUP. The second ends the process on the spot, for when the disk under it
// hangs; what finished flushes cover is safe then too, as after a kill -9. A
// reader of the log that goes away does not end the daemon (SIGPIPE).
func UntilSignal(parent context.Context, log logrus.FieldLogger) (ctx context.Context, stop func()) {
	ossignal.Ignore(unix.SIGPIPE)
	signals := make(chan os.Signal, 2)
	ossignal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	ctx, cancel := context.WithCancel(parent)
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case sig, ok := <-signals:
			if !ok {
				return
			}
			log.Infof("%v: ending", sig)
			cancel()
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
		cancel()
		close(signals) // after Stop nothing is sent any more
		<-over
	}
}
