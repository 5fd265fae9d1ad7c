package vhostuser

// Level is how much a log line matters.
type Level uint8

// The levels of a session's log lines.
const (
	LevelDebug Level = iota // each message in words
	LevelInfo               // what happens once in a session's life
	LevelWarn               // the front-end did something wrong, or was refused something
)

// LogFunc takes one log line.
type LogFunc func(level Level, format string, args ...any)
