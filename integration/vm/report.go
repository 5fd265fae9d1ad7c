package vm

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"

	"golang.org/x/sys/unix"
)

// A Test is a course of things to try. It calls OK for each that holds, and ends with
// the first that does not.
type Test struct {
	Name string
	Run  func(h *Host) error
}

// Main runs the tests whose names match -only, each on a host of its own, and exits.
// Its last line is "N passed, N failed". A test that fails is preceded by the ends of
// all logs.
func Main(tests []Test) {
	runtime.LockOSThread() // what is started dies with the thread that has started it
	zvhost := flag.String("zvhost", "bin/zvhost", "the zvhost to try")
	only := flag.String("only", "", "a regular expression: which tests to run")
	flag.Parse()
	passed, failed, err := run(tests, *zvhost, *only)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		failed++
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(tests []Test, zvhost, only string) (passed, failed int, err error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return 0, 0, fmt.Errorf("-only: %w", err)
	}
	if zvhost, err = filepath.Abs(zvhost); err != nil {
		return 0, 0, err
	}
	if _, err := os.Stat(zvhost); err != nil {
		return 0, 0, fmt.Errorf("%w: run 'make build' first", err)
	}
	for _, t := range tests {
		if !pattern.MatchString(t.Name) {
			continue
		}
		held, err := t.run(zvhost)
		if err != nil {
			fmt.Fprintf(os.Stderr, "FAILED: %s: %v\n", t.Name, err)
			failed++
		}
		passed += held
	}
	if passed+failed == 0 {
		err = fmt.Errorf("-only %s: no test has such a name", only)
	}
	return passed, failed, err
}

func (t *Test) run(zvhost string) (held int, err error) {
	fmt.Printf("--- %s\n", t.Name)
	h, err := NewHost(zvhost)
	if err != nil {
		return 0, err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(interrupted)
	go func() {
		s := <-interrupted // for the rest of the process's life
		_ = os.RemoveAll(h.dir)
		fmt.Fprintf(os.Stderr, "ended by %v\n", s)
		os.Exit(1)
	}()
	if err = t.Run(h); err != nil {
		fmt.Fprint(os.Stderr, h.Tails())
	}
	return h.held, errors.Join(err, h.Close())
}
