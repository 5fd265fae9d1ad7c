package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A report is all that was measured.
type report struct {
	Machine     machine       `json:"machine"`
	Pairs       int           `json:"pairs"`
	Seconds     float64       `json:"seconds"` // of each measurement
	Comparisons []*comparison `json:"comparisons"`
}

// machine is where it was measured.
type machine struct {
	Day        string `json:"day"`
	Processor  string `json:"processor"`
	Processors int    `json:"processors"`
	Kernel     string `json:"kernel"`
	FileSystem string `json:"file_system"` // of the disk
	Zvhost     string `json:"zvhost"`
	QEMU       string `json:"qemu"`
	Go         string `json:"go"`
}

func describeMachine(zvhost, qemu, fs string) (m machine, err error) {
	m = machine{Day: time.Now().Format(time.DateOnly), Processor: "unknown processor", Processors: runtime.NumCPU(), FileSystem: fs, Go: runtime.Version()}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Processor = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, err
	}
	m.Kernel = "Linux " + unix.ByteSliceToString(u.Release[:])
	for _, v := range []struct {
		to   *string
		argv []string
	}{{&m.Zvhost, []string{zvhost, "version"}}, {&m.QEMU, []string{qemu, "--version"}}} {
		out, err := exec.Command(v.argv[0], v.argv[1:]...).Output()
		if err != nil {
			return m, fmt.Errorf("%s: %w", strings.Join(v.argv, " "), err)
		}
		first, _, _ := strings.Cut(string(out), "\n")
		*v.to = first
	}
	return m, nil
}

// check says what is wrong with a report that was read.
func (r *report) check() error {
	for _, c := range r.Comparisons {
		if c == nil || len(c.Pairs) == 0 {
			return errors.New("a comparison without measurements")
		}
	}
	if len(r.Comparisons) == 0 {
		return errors.New("no comparison")
	}
	return nil
}

// marks is their table.
func (r *report) marks() string {
	var b strings.Builder
	writeMarks(&b, r.Comparisons)
	return b.String()
}

// The marks in a document that enclose the figures.
const (
	beginMark = "<!-- measured: from here to the end mark it is written by make bench-compare -->\n"
	endMark   = "<!-- end of what was measured -->\n"
)

// write puts the figures into the document at path, and the plot beside it.
func (r *report) write(path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	plot := strings.TrimSuffix(filepath.Base(path), ".md") + ".svg"
	text, err := replaced(old, r.text(plot))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), plot), drawPlot(r.Comparisons), 0o644); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// replaced is a document with other text between its marks.
func replaced(doc []byte, text string) ([]byte, error) {
	begin := bytes.Index(doc, []byte(beginMark))
	end := bytes.Index(doc, []byte(endMark))
	if begin < 0 || end < begin {
		return nil, fmt.Errorf("has no lines %q and %q between which the figures could stand", strings.TrimSpace(beginMark), strings.TrimSpace(endMark))
	}
	var b bytes.Buffer
	b.Write(doc[:begin+len(beginMark)])
	b.WriteString(text)
	b.Write(doc[end:])
	return b.Bytes(), nil
}

// text is the text between the marks.
func (r *report) text(plot string) string {
	var b strings.Builder
	m := &r.Machine
	fmt.Fprintf(&b, "\nMeasured on %s: %s, %d processors, %s, disk with %s; %s, %s, %s.\n", m.Day, m.Processor, m.Processors, m.Kernel, m.FileSystem, m.Zvhost, m.Go, m.QEMU)
	fmt.Fprintf(&b, "%d pairs a case, %g s a measurement. A ratio is the median of the pairs' ratios, and\nin brackets the least and the most of them.\n\n", r.Pairs, r.Seconds)
	b.WriteString("## Targets\n\n")
	writeMarks(&b, r.Comparisons)
	fmt.Fprintf(&b, "\n![the ratios of all cases](%s)\n", plot)
	for _, section := range []struct {
		title, other string
		in           func(c *comparison) bool
	}{
		{"zvhost and " + peerName, peerName, func(c *comparison) bool { return c.B == peerName }},
		{"zvhost and " + bareName + " on the file", bareName, func(c *comparison) bool { return c.B == bareName }},
		{"Appends to an image, and random writes to an ordinary file, both by zvhost", "random writes", func(c *comparison) bool { return c.B == ordinary{}.name() }},
		{"Appends to an image, and random writes to a file of holes, both by zvhost", "random writes", func(c *comparison) bool { return c.B == holes{}.name() }},
	} {
		header := false
		for _, c := range r.Comparisons {
			if !section.in(c) {
				continue
			}
			if !header {
				fmt.Fprintf(&b, "\n## %s\n\n| case | zvhost, IOPS | %s, IOPS | ratio of IOPS | ratio of p99.9 | ratio of processor time | settings |\n|---|---:|---:|---|---|---|---|\n", section.title, section.other)
				header = true
			}
			x, y := c.medians(iops)
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s; %s |\n", c.Task.name(), rate(x), rate(y),
				c.ratio(iops), number(c.ratio(tail).median), processor(c), c.SettingA.Name, c.SettingB.Name)
		}
	}
	b.WriteString("\n")
	return b.String()
}
