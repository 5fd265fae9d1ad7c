package main

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// defaultColumns is the width of what is no terminal.
const defaultColumns = 80

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
