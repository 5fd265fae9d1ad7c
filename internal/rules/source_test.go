package rules

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A Go file has one subject, so it is not long; a test, with its tables, may be
// somewhat longer.
const (
	maxLines     = 400
	maxTestLines = 800
)

// unfinished matches what is not to be in a file that lands. The words are
// taken apart, so that this file does not match itself.
var unfinished = map[string]*regexp.Regexp{
	"a test that is skipped: let it fail when it cannot run": regexp.MustCompile(`\b[tbf]\.(Skip|SkipNow|Skipf)\(`),
	"a note of something unfinished: finish it, or file it":  regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`),
}

func TestSources(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			checkSource(t, filepath.Join(p.Dir, name), p.name()+"/"+name)
		}
	}
}

func checkSource(t *testing.T, path, name string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		n++
		for what, re := range unfinished {
			if re.Match(lines.Bytes()) {
				t.Errorf("%s:%d: %s", name, n, what)
			}
		}
	}
	most := maxLines
	if strings.HasSuffix(name, "_test.go") {
		most = maxTestLines
	}
	if n > most {
		t.Errorf("%s: %d lines, more than %d: it has more than one subject", name, n, most)
	}
}
