package main

import (
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultColumns is the width for output that is not a terminal.
const defaultColumns = 80

// utf8Locale reports whether the locale of the output uses UTF-8 (setlocale(3): the first
// of LC_ALL, LC_CTYPE and LANG that is not empty). Without any it is C, in ASCII.
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(os.Getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// terminal returns the width of w and whether it shows colours, which only a terminal
// does. COLUMNS overrides the width, and NO_COLOR turns colours off.
func terminal(w io.Writer) (columns int, colour bool) {
	columns = defaultColumns
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
			if size.Col > 0 {
				columns = int(size.Col)
			}
		}
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		columns = n
	}
	return columns, colour
}
