package main

import (
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultColumns is the width of what is no terminal.
const defaultColumns = 80

// utf8Locale says whether the locale of what is printed is one of UTF-8 (setlocale(3):
// LC_ALL, else LC_CTYPE, else LANG, where it is not empty). Without any it is C, in ASCII.
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(os.Getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// terminal says how wide w is and whether it takes colours. What is no terminal
// has none; COLUMNS says another width, and NO_COLOR turns colours off.
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
