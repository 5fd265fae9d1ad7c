// Package logging is the daemon's log: the format of a line (log.go), and the limits on lines
// that a guest or front-ends cause (loglimit.go, ratelimit.go).
//
// It may import logrus. Every package that logs may import it; those below the device do not
// log.
//
// It implements sd-daemon(3) and $JOURNAL_STREAM of systemd.exec(5), as far as they concern a
// log line.
package logging
