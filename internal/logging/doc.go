// Package logging is the daemon's log: how a line looks (log.go), and how many lines a
// guest, or front-ends, can bring about (loglimit.go, ratelimit.go).
//
// It may import logrus. Every package that logs may import it; those below the device do
// not log.
//
// It implements sd-daemon(3) and $JOURNAL_STREAM of systemd.exec(5), as far as a log line
// goes.
package logging
