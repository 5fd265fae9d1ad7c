package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// options are the command line.
type options struct {
	zvhost, qemu   string
	diskDir, tmpfs string
	pairs          int
	runtime        time.Duration
	only           choiceList
	doc            string
	results, from  string
}

// choiceList is a flag that may be given again.
type choiceList []string

func (l *choiceList) String() string     { return strings.Join(*l, "; ") }
func (l *choiceList) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	if err := run(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintf(os.Stderr, "compare: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var o options
	fs := flag.NewFlagSet("compare", flag.ContinueOnError)
	fs.StringVar(&o.zvhost, "zvhost", "bin/zvhost", "the zvhost to measure")
	fs.StringVar(&o.qemu, "qemu", "", "the qemu-storage-daemon to measure (default: the one of integration/vm/fetch.sh)")
	fs.StringVar(&o.diskDir, "disk", "bin/bench", "a folder on a disk, for 3 GiB of files")
	fs.StringVar(&o.tmpfs, "tmpfs", "/dev/shm", "a folder on tmpfs, for 3 GiB of files")
	fs.IntVar(&o.pairs, "pairs", 5, "measure each case so many times, in turn")
	fs.DurationVar(&o.runtime, "runtime", 2*time.Second, "how long each measurement takes")
	fs.Var(&o.only, "only", "measure the cases whose names have all of these words, such as 'tmpfs randread'; may be given again. Nothing is written then, unless -doc is given")
	fs.StringVar(&o.doc, "doc", "docs/performance.md", "write the figures into this document, between its two marks, and the plot beside it")
	fs.StringVar(&o.results, "results", "", "write every single measurement to this file, as JSON")
	fs.StringVar(&o.from, "from", "", "measure nothing: write the document from a file of -results")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("takes no argument, but was given %q", fs.Arg(0))
	}
	if o.pairs < 1 || o.runtime < 100*time.Millisecond {
		return fmt.Errorf("-pairs=%d -runtime=%v: must be at least 1, and 100ms", o.pairs, o.runtime)
	}
	if len(o.only) > 0 && !isSet(fs, "doc") {
		o.doc = ""
	}
	rep, err := o.report()
	if err != nil {
		return err
	}
	fmt.Println()
	fmt.Print(rep.marks())
	if o.results != "" {
		text, err := json.MarshalIndent(rep, "", " ")
		if err == nil {
			err = os.WriteFile(o.results, append(text, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if o.doc == "" {
		return nil
	}
	return rep.write(o.doc)
}

func isSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// report measures, or reads what was measured.
func (o *options) report() (*report, error) {
	if o.from == "" {
		return o.measure()
	}
	text, err := os.ReadFile(o.from)
	if err != nil {
		return nil, err
	}
	rep := &report{}
	if err := json.Unmarshal(text, rep); err != nil {
		return nil, fmt.Errorf("%s: %w", o.from, err)
	}
	return rep, rep.check()
}

func (o *options) measure() (rep *report, err error) {
	if o.qemu == "" {
		fetch := exec.Command("integration/vm/fetch.sh")
		fetch.Stderr = os.Stderr
		dir, err := fetch.Output()
		if err != nil {
			return nil, fmt.Errorf("fetching qemu-storage-daemon: %w (run this at the top of the repository, or give one with -qemu)", err)
		}
		o.qemu = strings.TrimSpace(string(dir)) + "/bin/qemu-storage-daemon"
	}
	f, err := newFiles(o.diskDir, o.tmpfs)
	if f != nil {
		defer func() { err = errors.Join(err, f.remove()) }()
	}
	if err != nil {
		return nil, err
	}
	z, err := newZvhost(o.zvhost, f)
	if err != nil {
		return nil, err
	}
	matches := o.matches(z, &qemu{bin: o.qemu, zvhost: o.zvhost, files: f, socket: f.dir + "/qemu.sock"})
	if len(matches) == 0 {
		return nil, fmt.Errorf("-only=%q: no case has all of these words", o.only.String())
	}
	rep = &report{Pairs: o.pairs, Seconds: o.runtime.Seconds()}
	if rep.Machine, err = describeMachine(o.zvhost, o.qemu, f.fs); err != nil {
		return nil, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	s := series{matches: matches, pairs: o.pairs, runtime: o.runtime, out: os.Stdout, prepare: func(t task) error {
		err := errors.Join(f.prepare(o.zvhost, t), f.prepare(o.zvhost, ordinary{z}.task(t)))
		settle()
		return err
	}}
	err = s.run(ctx, func(c *comparison) { rep.Comparisons = append(rep.Comparisons, c) })
	return rep, err
}

// matches are those that were asked for.
func (o *options) matches(z *zvhostServer, q *qemu) (list []match) {
	add := func(m match) {
		if chosen(m.name(), o.only) {
			list = append(list, m)
		}
	}
	for _, t := range tasks() {
		add(match{t, z, q})
	}
	for _, t := range bareTasks() {
		add(match{t, z, &bare{bin: o.zvhost, files: q.files}})
	}
	for _, t := range appendTasks() {
		add(match{t, z, ordinary{z}})
		if t.Zones == 4 {
			add(match{t, z, holes{ordinary{z}}})
		}
	}
	return list
}
