package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/internal/bench"
)

// sample is a report with something in every table: marks that are met and
// missed, a side without a server, appends.
func sample() *report {
	result := func(iops, tail, cpu float64) bench.Result {
		r := bench.Result{Requests: 1_000_000, IOPS: iops, ServerCPUSeconds: cpu / 1e3}
		r.Latency.P999 = uint64(tail)
		return r
	}
	pairs := func(scale float64) (list []pair) {
		for _, f := range []float64{1, 1.2, 0.9} {
			list = append(list, pair{result(100e3*scale*f, 500e3, 900), result(100e3, 450e3, 1000)})
		}
		return list
	}
	rep := &report{Pairs: 3, Seconds: 2, Machine: machine{
		Day: "2026-11-23", Processor: "Some CPU", Processors: 2, Kernel: "Linux 6.12", FileSystem: "ext4", Zvhost: "zvhost 1", QEMU: "qemu-storage-daemon version 11", Go: "go1.26",
	}}
	add := func(t task, b string, scale float64) *comparison {
		c := &comparison{Task: t, A: "zvhost", B: b, SettingA: setting{Name: "io_uring"}, SettingB: setting{Name: "native"}, Pairs: pairs(scale)}
		rep.Comparisons = append(rep.Comparisons, c)
		return c
	}
	add(task{Storage: nothing, RW: bench.RandRead, BlockBytes: 4096, Depth: 32, Queues: 1}, peerName, 1.1)
	add(task{Storage: tmpfs, RW: bench.RandWrite, BlockBytes: 4096, Depth: 32, Queues: 1}, peerName, 1.4)
	add(task{Storage: disk, RW: bench.RandRead, BlockBytes: 4096, Depth: 1, Queues: 1}, peerName, 12)
	add(task{Storage: disk, RW: bench.Read, BlockBytes: 1 << 20, Depth: 32, Queues: 2, Poll: true}, peerName, 0.01)
	for i, c := 0, add(task{Storage: disk, RW: bench.RandRead, BlockBytes: 4096, Depth: 32, Queues: 1}, bareName, 0.95); i < len(c.Pairs); i++ {
		c.Pairs[i].B.ServerCPUSeconds = 0
	}
	for _, other := range []runner{ordinary{}, holes{}} {
		add(task{Storage: tmpfs, RW: bench.Append, BlockBytes: 4096, Depth: 32, Queues: 1, Zones: 4}, other.name(), 0.8)
	}
	return rep
}

func TestDocument(t *testing.T) {
	dir := t.TempDir()
	doc := filepath.Join(dir, "performance.md")
	check(t, os.WriteFile(doc, []byte("# Before\n\n"+beginMark+"what was there\n"+endMark+"\nAfter.\n"), 0o644))
	results := filepath.Join(dir, "results.json")
	text, err := json.Marshal(sample())
	check(t, err)
	check(t, os.WriteFile(results, text, 0o644))
	for range 2 { // writing it once more changes nothing
		check(t, run([]string{"-from", results, "-doc", doc}))
		got, err := os.ReadFile(doc)
		check(t, err)
		golden(t, "performance.md", got)
		got, err = os.ReadFile(filepath.Join(dir, "performance.svg"))
		check(t, err)
		golden(t, "performance.svg", got)
	}
}

// The document that is in the repository can be written.
func TestOwnDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/performance.md")
	check(t, err)
	if _, err := replaced(doc, "figures"); err != nil {
		t.Error(err)
	}
}

func TestDocumentRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", beginMark, endMark + beginMark} {
		path := filepath.Join(dir, "d.md")
		check(t, os.WriteFile(path, []byte(text), 0o644))
		if err := sample().write(path); err == nil || !strings.Contains(err.Error(), "has no lines") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := sample().write(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, text := range []string{`{}`, `{"comparisons":[null]}`, `{"comparisons":[{}]}`} {
		path := filepath.Join(dir, "r.json")
		check(t, os.WriteFile(path, []byte(text), 0o644))
		if err := run([]string{"-from", path}); err == nil || !strings.Contains(err.Error(), "comparison") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The plot is XML, nothing of it lies outside, and each comparison has its dots.
func TestPlot(t *testing.T) {
	all := sample().Comparisons
	svg := drawPlot(all)
	dots := 0
	for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			dots++
		}
	}
	if want := 3*len(all) - 1; dots != want { // bare io_uring has no server
		t.Errorf("%d dots, want %d", dots, want)
	}
	p := panel{of: iops}
	p.scale(all)
	for _, v := range []float64{1e-9, 0.5, 1, 1e9} {
		if x := p.x(v); x < 0 || x > panelWidth {
			t.Errorf("%v is at %v", v, x)
		}
	}
}
