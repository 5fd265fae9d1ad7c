package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

func main() {
	c := counter{out: os.Stdout, printed: map[string]*bytes.Buffer{}, tests: map[string]int{}, broken: map[string]bool{}}
	if err := c.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testcount:", err)
		os.Exit(1)
	}
	fmt.Printf("%d passed, %d failed\n", c.passed, c.failed)
	if c.failed > 0 {
		os.Exit(1)
	}
}

// event is one line of go test -json (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

type counter struct {
	out            io.Writer
	passed, failed int
	// printed is the output so far of each package and test that is running.
	printed map[string]*bytes.Buffer
	tests   map[string]int  // package -> tests that passed
	broken  map[string]bool // packages with a test that failed
}

func (c *counter) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				c.take(e)
			} else {
				_, _ = c.out.Write(line) // not an event: the go command itself
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *counter) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if c.printed[key] == nil {
			c.printed[key] = &bytes.Buffer{}
		}
		c.printed[key].WriteString(e.Output)
		return
	case "build-output":
		_, _ = io.WriteString(c.out, e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	defer delete(c.printed, key)
	switch {
	case e.Test != "" && e.Action == "pass":
		c.passed++
		c.tests[e.Package]++
	case e.Test != "":
		c.failed++
		c.broken[e.Package] = true
		_, _ = fmt.Fprintf(c.out, "--- %s %s %s\n%s", strings.ToUpper(e.Action), e.Package, e.Test, c.told(key))
	case e.Action == "pass":
		_, _ = fmt.Fprintf(c.out, "ok    %-52s %4d tests %7.1f s\n", e.Package, c.tests[e.Package], e.Elapsed)
	case e.Action == "fail":
		if !c.broken[e.Package] { // it does not build, panicked, leaked or timed out
			c.failed++
		}
		c.unfinished(e.Package)
		_, _ = fmt.Fprintf(c.out, "%sFAIL  %s\n", c.told(key), e.Package)
	}
}

// unfinished prints what those tests said that were under way when a package ended: a
// panic, or where all hung when the time was over.
func (c *counter) unfinished(pkg string) {
	for _, key := range slices.Sorted(maps.Keys(c.printed)) {
		test, ok := strings.CutPrefix(key, pkg+" ")
		if !ok || test == "" {
			continue
		}
		if said := c.told(key); said != "" {
			_, _ = fmt.Fprintf(c.out, "--- UNFINISHED %s %s\n%s", pkg, test, said)
		}
		delete(c.printed, key)
	}
}

// told is what a package or test printed, less what go test says of each.
func (c *counter) told(key string) string {
	b := c.printed[key]
	if b == nil {
		return ""
	}
	var keep strings.Builder
	for line := range strings.Lines(b.String()) {
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case word == "===", word == "---", word == "PASS", strings.HasPrefix(word, "FAIL") && word != "FAIL:":
		default:
			keep.WriteString(line)
		}
	}
	return keep.String()
}
