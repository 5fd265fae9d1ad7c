package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCounter(t *testing.T) {
	in := strings.Join([]string{
		`{"Action":"start","Package":"p/a"}`,
		`{"Action":"run","Package":"p/a","Test":"TestGood"}`,
		`{"Action":"output","Package":"p/a","Test":"TestGood","Output":"chatter\n"}`,
		`{"Action":"pass","Package":"p/a","Test":"TestGood"}`,
		`{"Action":"pass","Package":"p/a","Elapsed":1.5}`,
		`{"Action":"output","Package":"p/b","Test":"TestBad","Output":"=== RUN   TestBad\n"}`,
		`{"Action":"output","Package":"p/b","Test":"TestBad","Output":"    b_test.go:7: wrong\n"}`,
		`{"Action":"fail","Package":"p/b","Test":"TestBad"}`,
		`{"Action":"skip","Package":"p/b","Test":"TestLazy"}`,
		`{"Action":"fail","Package":"p/b","Elapsed":0.1}`,
		`{"Action":"output","Package":"p/leak","Output":"FAIL: the tests leaked\n"}`,
		`{"Action":"output","Package":"p/leak","Output":"FAIL\tp/leak\t0.1s\n"}`,
		`{"Action":"fail","Package":"p/leak","Elapsed":0.1}`,
		`{"Action":"output","Package":"p/hung","Test":"TestStuck","Output":"SIGQUIT: quit\n"}`,
		`{"Action":"output","Package":"p/hung","Test":"TestQuiet","Output":"=== RUN   TestQuiet\n"}`,
		`{"Action":"fail","Package":"p/hung","Elapsed":9}`,
		`{"ImportPath":"p/c","Action":"build-output","Output":"c.go:1: no\n"}`,
		`{"Action":"skip","Package":"p/none"}`,
		`go: something else`,
	}, "\n")
	var out bytes.Buffer
	c := counter{out: &out, printed: map[string]*bytes.Buffer{}, tests: map[string]int{}, broken: map[string]bool{}}
	if err := c.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if c.passed != 1 || c.failed != 4 {
		t.Errorf("%d passed, %d failed, want 1 and 4 (a test, a skipped test, two packages)", c.passed, c.failed)
	}
	got := out.String()
	for _, want := range []string{"ok    p/a", "1 tests", "--- FAIL p/b TestBad\n    b_test.go:7: wrong\n", "--- SKIP p/b TestLazy", "\nFAIL  p/b\n", "\nFAIL: the tests leaked\nFAIL  p/leak\n", "--- UNFINISHED p/hung TestStuck\nSIGQUIT: quit\nFAIL  p/hung\n", "c.go:1: no\n", "go: something else"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	for _, not := range []string{"chatter", "=== RUN", "p/none", "TestQuiet"} {
		if strings.Contains(got, not) {
			t.Errorf("%q does not belong into:\n%s", not, got)
		}
	}
}
