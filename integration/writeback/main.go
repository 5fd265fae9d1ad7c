package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

// A trial is one thing to try on the file system of a host. It returns what it has
// seen.
type trial struct {
	name string
	run  func(h *host, name string) (string, error)
}

func main() {
	binary := flag.String("zvhost", "/bin/zvhost", "the zvhost to try")
	dir := flag.String("dir", "/tmp/writeback", "an empty folder to work in")
	only := flag.String("only", "", "the name of the one trial to run; empty: all")
	flag.Parse()
	h := &host{zvhost: *binary, dir: *dir}
	if err := errors.Join(h.run(*only), h.undo.Run()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// errFound is a promise that was broken, and no trouble of this program's own.
var errFound = errors.New("FOUND")

func (h *host) run(only string) error {
	if err := h.prepare(); err != nil {
		return err
	}
	ran := false
	for _, t := range append(zonedTrials(), plainTrials()...) {
		if only != "" && only != t.name {
			continue
		}
		ran = true
		said, err := t.run(h, t.name)
		if err == nil {
			err = h.sound()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		fmt.Printf("%s: %s\n", t.name, said)
	}
	if !ran {
		return fmt.Errorf("there is no trial %q", only)
	}
	return nil
}
