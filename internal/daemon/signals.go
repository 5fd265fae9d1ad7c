package daemon

import (
	"context"
	"errors"
	"os"
	ossignal "os/signal" // signal is what a worker does to an eventfd
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// errHandOver is the cause of the end of UntilSignal's context if the next process is to
// continue, given a service manager with an fd store: systemd sends SIGTERM for a restart
// and for a stop alike, and empties the store after a stop. SIGINT ends the session in any
// case.
var errHandOver = errors.New("asked to end by SIGTERM or SIGHUP")

// secondSignal is how long after the first signal another one is taken for the same
// request: timeout(1) signals the process and then its group, and a terminal's Ctrl-C
// reaches a process both directly and through its parent.
const secondSignal = time.Second

// EndSignals are the signals that ask a process to end: SIGTERM, SIGINT and SIGHUP.
// SIGHUP and SIGINT are left out where the parent has them ignored, as nohup(1) and a
// shell's background jobs do: such a process stays. It must be called before the
// signals are asked for, because os/signal ends their being ignored.
func EndSignals() []os.Signal {
	end := []os.Signal{unix.SIGTERM}
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGHUP} {
		if !ossignal.Ignored(sig) {
			end = append(end, sig)
		}
	}
	return end
}

// UntilSignal returns a context that ends with the first of EndSignals. Another one,
// secondSignal after it or later, ends the process on the spot, for when the disk under
// it hangs; what finished flushes cover is safe then too, as after a kill -9. A
// reader of the log that exits does not end the daemon (SIGPIPE).
func UntilSignal(parent context.Context, log logrus.FieldLogger) (ctx context.Context, stop func()) {
	ossignal.Ignore(unix.SIGPIPE)
	signals := make(chan os.Signal, 2)
	ossignal.Notify(signals, EndSignals()...)
	ctx, cancel := context.WithCancelCause(parent)
	over := make(chan struct{})
	go func() {
		defer close(over)
		var first time.Time
		select {
		case sig, ok := <-signals:
			if !ok {
				return
			}
			first = time.Now() // before the line: the sender of the next signal may wait for it
			log.Infof("%v: ending, once requests in flight are finished; another signal, %v from now or later, ends it at once", sig, secondSignal)
			if sig == unix.SIGINT {
				cancel(nil)
			} else {
				cancel(errHandOver)
			}
		case <-ctx.Done():
			return
		}
		if sig := nextSignal(signals, first, log); sig != nil {
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

// nextSignal waits for a signal that is not one with the first, which came at the time
// first; nil: signals is closed.
func nextSignal(signals <-chan os.Signal, first time.Time, log logrus.FieldLogger) os.Signal {
	logged := false
	for sig := range signals {
		if time.Since(first) >= secondSignal {
			return sig
		}
		if !logged {
			log.Infof("%v within %v of the first signal: taken for the same request, as timeout(1) signals a process and then its group", sig, secondSignal)
			logged = true
		}
	}
	return nil
}
