package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/bench"
	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }

var update = flag.Bool("update", false, "write testdata anew")

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		check(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	check(t, err)
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s is another (-update writes it anew):\n%s", name, d)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Every task of the plan, by name, and no name twice.
func TestTasks(t *testing.T) {
	var b strings.Builder
	seen := map[string]bool{}
	for _, one := range bareTasks() { // of those in tasks
		if !slices.Contains(tasks(), one) {
			t.Errorf("%s is held against the file only", one.name())
		}
	}
	for _, one := range append(tasks(), appendTasks()...) {
		if seen[one.name()] {
			t.Errorf("%s twice", one.name())
		}
		seen[one.name()] = true
		b.WriteString(one.name() + "\n")
	}
	golden(t, "tasks.txt", []byte(b.String()))
}

func TestChosen(t *testing.T) {
	const name = "tmpfs, randread, 4k, depth 32, polling, zvhost : qemu-storage-daemon"
	for _, tt := range []struct {
		choices []string
		want    bool
	}{
		{nil, true},
		{[]string{"tmpfs randread"}, true},
		{[]string{"disk", "polling qemu-storage-daemon"}, true},
		{[]string{"disk"}, false},
		{[]string{"tmpfs randwrite", "depth 1,"}, false},
		{[]string{"tmpfs, depth 3"}, false},
	} {
		if got := chosen(name, tt.choices); got != tt.want {
			t.Errorf("%q: %v", tt.choices, got)
		}
	}
}

func TestSpreadOf(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{4, 1}, spread{2.5, 1, 4}},
		{[]float64{9, 1, 2}, spread{2, 1, 9}},
		{[]float64{5, 1, 2, 100}, spread{3.5, 1, 100}},
	} {
		if got := spreadOf(tt.values); got != tt.want {
			t.Errorf("%v: %+v", tt.values, got)
		}
	}
	if got := (spread{1.234, 0.5, 123.4}).String(); got != "1.23 (0.50 to 123)" {
		t.Error(got)
	}
}

// A ratio is that of the pairs, not that of the medians.
func TestRatio(t *testing.T) {
	c := &comparison{}
	for _, v := range [][2]float64{{100, 50}, {10, 10}, {300, 100}} {
		c.Pairs = append(c.Pairs, pair{bench.Result{IOPS: v[0]}, bench.Result{IOPS: v[1]}})
	}
	if got := c.ratio(iops); got != (spread{2, 1, 3}) {
		t.Errorf("%+v", got)
	}
	if a, b := c.medians(iops); a != 100 || b != 50 {
		t.Errorf("%v, %v", a, b)
	}
	if got := processor(c); got != "-" {
		t.Errorf("no server, and its processor time is %s", got)
	}
}

// fake is a side whose figures are known.
type fake struct {
	title string
	log   *[]string
	iops  map[string]float64 // by setting
	err   error
}

func (f *fake) name() string { return f.title }

func (f *fake) settings(task) (list []setting) {
	for _, name := range []string{"slow", "fast"} {
		if f.iops[name] != 0 {
			list = append(list, setting{Name: name})
		}
	}
	return list
}

func (f *fake) measure(_ context.Context, t task, s setting, d time.Duration) (bench.Result, error) {
	*f.log = append(*f.log, fmt.Sprintf("%s %s %v", f.title, s.Name, d))
	return bench.Result{IOPS: f.iops[s.Name], Requests: 1}, f.err
}

// A short trial of each setting, where there are several, and then in turn.
func TestSeries(t *testing.T) {
	var log []string
	var out strings.Builder
	a := &fake{title: "a", log: &log, iops: map[string]float64{"slow": 1000, "fast": 3000}}
	b := &fake{title: "b", log: &log, iops: map[string]float64{"slow": 2000}}
	one := task{Storage: tmpfs, RW: bench.RandRead, BlockBytes: 4096, Depth: 1, Queues: 1}
	s := series{matches: []match{{one, a, b}}, pairs: 2, runtime: time.Second, out: &out,
		prepare: func(got task) error { log = append(log, got.name()); return nil }}
	var kept []*comparison
	keep := func(c *comparison) { kept = append(kept, c) }
	check(t, s.run(context.Background(), keep))
	want := []string{"tmpfs, randread, 4k, depth 1"}
	for range trialRounds {
		want = append(want, "a slow 500ms", "a fast 500ms")
	}
	want = append(want,
		"a fast 1s", "b slow 1s", "a fast 1s", "b slow 1s")
	if d := cmp.Diff(want, log); d != "" {
		t.Error(d)
	}
	if len(kept) != 1 || kept[0].SettingA.Name != "fast" || kept[0].SettingB.Name != "slow" || len(kept[0].Pairs) != 2 || kept[0].ratio(iops).median != 1.5 {
		t.Errorf("%+v", kept)
	}
	for _, words := range []string{"[1/1] tmpfs, randread, 4k, depth 1: 1.50 (1.50 to 1.50)", "3.0k IOPS of a (fast), 2.0k of b (slow)", "0s left"} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("%q is not in\n%s", words, out.String())
		}
	}
	b.err = errors.New("no")
	if err := s.run(context.Background(), keep); err == nil || err.Error() != "tmpfs, randread, 4k, depth 1, a : b: no" || len(kept) != 1 {
		t.Errorf("%v, %d kept", err, len(kept))
	}
}

// A server that does not start, ends, or ends badly is an error with what it said.
func TestServing(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	fine := bench.Result{Requests: 1}
	for name, tt := range map[string]struct {
		script string
		err    error
		want   []string // empty: no error
	}{
		"good":            {"trap 'exit 0' TERM; touch $0; while :; do sleep 0.01; done", nil, nil},
		"does not start":  {"echo no such file; exit 3", nil, []string{"it did not start", "exit status 3", "no such file"}},
		"dies in between": {"touch $0; while [ -e $0 ]; do sleep 0.01; done; echo killed >&2", nil, []string{"it ended in the middle", "killed"}},
		"ends badly":      {"trap 'echo lost; exit 4' TERM; touch $0; while :; do sleep 0.01; done", nil, []string{"it ended badly", "exit status 4", "lost"}},
		"client fails":    {"trap 'exit 0' TERM; echo refused; touch $0; while :; do sleep 0.01; done", errors.New("IOERR"), []string{"the client failed: IOERR", "refused"}},
	} {
		cmd := exec.Command("sh", "-c", tt.script, socket)
		got, err := serving(cmd, socket, func() (bench.Result, error) {
			if name == "dies in between" {
				check(t, os.Remove(socket))
				for unix.Kill(cmd.Process.Pid, 0) == nil { // until it is waited for
					time.Sleep(time.Millisecond)
				}
			}
			return fine, tt.err
		})
		if tt.want == nil && (err != nil || got != fine) {
			t.Errorf("%s: %v", name, err)
		}
		for _, words := range tt.want {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %v, want %q", name, err, words)
			}
		}
	}
}

// What the client prints, or fails to.
func TestResult(t *testing.T) {
	for _, tt := range []struct{ script, want string }{
		{`echo '{"requests": 3, "iops": 7}'`, ""},
		{`echo '{"requests": 0}'`, "no request was answered"},
		{`echo hello`, "invalid character"},
		{`echo broken >&2; exit 1`, "exit status 1: broken"},
	} {
		r, err := result(exec.Command("sh", "-c", tt.script))
		if tt.want == "" && (err != nil || r.IOPS != 7) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %+v, %v", tt.script, r, err)
		}
	}
}

// A zvhost that knows fewer flags is measured as it is.
func TestSettings(t *testing.T) {
	names := func(r runner, one task) (all []string) {
		for _, s := range r.settings(one) {
			all = append(all, s.Name)
		}
		return all
	}
	now := &zvhostServer{help: "      --aio ENGINE  \n --cache MODE \n --poll-max TIME "}
	old := &zvhostServer{help: "      --cache-less MODE"}
	for _, tt := range []struct {
		r    runner
		s    storage
		want []string
	}{
		{now, nothing, []string{"default", "poll-max=0"}},
		{now, tmpfs, []string{"io_uring, buffered", "io_uring, direct", "threads, buffered"}},
		{ordinary{now}, disk, []string{"io_uring", "native"}},
		{old, nothing, []string{"default"}},
		{old, disk, []string{"default"}},
		{&qemu{}, nothing, []string{"default", "poll-max-ns=0"}},
		{&qemu{}, tmpfs, []string{"io_uring, buffered", "io_uring, direct", "native, direct", "threads, buffered"}},
		{&qemu{}, disk, []string{"io_uring", "native"}},
		{&bare{}, disk, []string{"direct"}},
		{&bare{}, tmpfs, []string{"buffered", "direct"}},
	} {
		if d := cmp.Diff(tt.want, names(tt.r, task{Storage: tt.s})); d != "" {
			t.Errorf("%s on %s: %s", tt.r.name(), tt.s, d)
		}
	}
	f := &files{dir: "d", memory: "m"}
	for _, tt := range []struct {
		one  task
		want string
	}{
		{task{Storage: nothing}, ""},
		{task{Storage: disk, RW: bench.Read}, "d/ordinary"},
		{task{Storage: tmpfs, RW: bench.Append}, "m/image.zvh"},
		{ordinary{now}.task(task{Storage: tmpfs, RW: bench.Append, Zones: 4}), "m/ordinary"},
	} {
		if got := f.of(tt.one); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.one, got, tt.want)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"x"}, `takes no argument, but was given "x"`},
		{[]string{"-pairs", "0"}, "-pairs=0"},
		{[]string{"-runtime", "1ms"}, "-runtime=1ms"},
		{[]string{"-from", "none"}, "no such file"},
		{[]string{"-from", "testdata/tasks.txt"}, "invalid character"},
	} {
		if err := run(tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v", tt.args, err)
		}
	}
}
