package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testleak"
)

// asProgram makes the test binary be zvhost: the end-to-end tests start it like
// that.
const asProgram = "ZVHOST_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	// os/signal has a goroutine that stays for good once it was asked for.
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM)
	signal.Stop(c)
	testleak.Main(m)
}

// zvhost runs a command line in this process.
func zvhost(args ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(args, &out, &err)
	return status, out.String(), err.String()
}

// must runs a command line that has to succeed, and returns what it printed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	status, out, stderr := zvhost(args...)
	if status != exitOK || stderr != "" {
		t.Fatalf("zvhost %q: status %d: %s", args, status, stderr)
	}
	return out
}

// newImage makes an image with the options given, and returns its path.
func newImage(t *testing.T, options ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.zvh")
	must(t, append([]string{"create", path}, options...)...)
	return path
}

// Every wrong command line is answered with one line that says what is wrong,
// and the status that tells it from a failure.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	image := newImage(t, "--size", "1M", "--zone-size", "64K")
	size := []string{"--size", "1M", "--zone-size", "64K"}
	with := func(more ...string) []string { return append(append([]string{"create", "new.zvh"}, size...), more...) }
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"frobnicate"}, exitUsage, `unknown command "frobnicate" (see zvhost --help)`},
		{[]string{"repot", "x"}, exitUsage, "did you mean report?"},
		{[]string{"--frobnicate"}, exitUsage, "unknown flag: --frobnicate (see zvhost --help)"},
		{[]string{"report", "--frobnicate"}, exitUsage, "(see zvhost report --help)"},

		{[]string{"creat", "x", "--size", "8G"}, exitUsage, "did you mean create?"},
		{[]string{"help", "nosuch"}, exitUsage, `unknown command "nosuch" (see zvhost --help)`},
		{[]string{"help", "fault", "ad"}, exitUsage, "did you mean add? (see zvhost fault --help)"},
		{[]string{"fault", "ad", "s", "--foo"}, exitUsage, "did you mean add? (see zvhost fault --help)"},
		{[]string{"zone", "offline"}, exitUsage, `unknown command "offline" (see zvhost zone --help)`},
		{[]string{"create", "new.zvh", "--size", "0", "--zone-size", "64K"}, exitUsage, "--size 0: must be larger than 0"},
		{[]string{"create", "new.zvh", "--size", "-1", "--zone-size", "64K"}, exitUsage, "--size=-1: not a size"},
		{with("--conventional", "x"), exitUsage, "--conventional=x: must be a whole number (see zvhost create --help)"},
		{with("--max-active", "5000000000"), exitUsage, "--max-active=5000000000: must be a whole number, 0 or more, below 2^32"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--poll-max", "1"}, exitUsage, "--poll-max=1: must be a time with its unit"},
		{[]string{"serve", "--read-only=maybe"}, exitUsage, "--read-only=maybe: takes true or false, or nothing for true"},
		{[]string{"serve", "--fd", "x"}, exitUsage, "--fd=x: must be a whole number"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "@s"}, exitUsage, "--socket-path=@s: names an abstract socket"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--control-path", "@s"}, exitUsage, "--control-path=@s: names an abstract socket"},
		{[]string{"serve", "--blk-file", image, "--socket-path", plain}, exitLasting, "is a file, not a socket: give another path"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--control-path", "/etc/passwd"}, exitLasting, "--control-path=/etc/passwd: is a file, not a socket"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--socket-group", "nosuchgroup"}, exitLasting, "nosuchgroup"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "none/s"}, exitLasting, "the socket's directory none"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--create", "--size", "2M", "--zone-size", "64K"}, exitLasting, "another size (1 MiB, not 2 MiB)"},
		{[]string{"bench", "--socket-path", plain}, exitFailure, "not a socket: give the path that the back-end listens on"},
		{[]string{"bench", "--socket-path", "s", "--timeout", "0"}, exitUsage, "--timeout=0s: must be at least 1ms"},
		{[]string{"create"}, exitUsage, "needs the file"},
		{[]string{"create", "a", "b"}, exitUsage, "takes one file, but was given 2"},
		{[]string{"create", "new.zvh"}, exitUsage, "--size is missing"},
		{[]string{"create", "new.zvh", "--size", "1G"}, exitUsage, "--zone-size is missing"},
		{[]string{"create", "new.zvh", "--size", "8MB"}, exitUsage, "MB is ambiguous"},
		{[]string{"create", "new.zvh", "--size", "1000", "--zone-size", "64K"}, exitUsage, "--size 1000 is not a whole number of sectors"},
		{with("--zone-capacity", "128K"), exitUsage, "zone capacity 131072 bytes: must not exceed"},
		{with("--block-size", "1024"), exitUsage, "block size 1024: must be 512 or 4096"},
		{with("--block-size", "8G"), exitUsage, "--block-size 8G is too large"},
		{with("--max-append", "8T"), exitUsage, "--max-append 8T is too large"},
		{with("--conventional", "16"), exitUsage, "conventional zones 16"},
		{with("--max-open", "4", "--max-active", "2"), exitUsage, "must not exceed the active zones limit"},
		{with("--max-open", "-1"), exitUsage, "--max-open"},
		{append([]string{"create", image}, size...), exitFailure, "the file exists"},
		{append([]string{"create", "none/new.zvh"}, size...), exitFailure, "no such file or directory"},

		{[]string{"report"}, exitUsage, "needs the file"},
		{[]string{"report", "none"}, exitFailure, "no such file or directory"},
		{[]string{"report", plain}, exitFailure, "is an ordinary disk"},
		{[]string{"report", image, "--json", "--map"}, exitUsage, "--json and --map exclude each other"},
		{[]string{"check", plain}, exitFailure, "not a zvhost image"},

		{[]string{"serve"}, exitUsage, "--blk-file=FILE"},
		{[]string{"serve", "disk.zvh"}, exitUsage, `takes no argument, but was given "disk.zvh"`},
		{[]string{"serve", "--blk-file", image}, exitLasting, "nowhere to listen"},
		{[]string{"serve", "--null"}, exitLasting, "nowhere to listen"},
		{[]string{"serve", "--null", "--blk-file", image}, exitUsage, "--null is a disk without storage: leave --blk-file"},
		{[]string{"serve", "--null-size", "1G", "--blk-file", image}, exitUsage, "add --null"},
		{[]string{"serve", "--null", "--null-size", "0"}, exitUsage, "at least one sector"},
		{[]string{"serve", "--null", "--null-size", "1000"}, exitUsage, "not a whole number of sectors"},
		{[]string{"serve", "--null", "--null-size", "16383P"}, exitUsage, "--null-size 16383P: too large: a disk has at most 8 EiB"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--fd", "7"}, exitUsage, "exclude each other"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--vfio-user", "v"}, exitUsage, "--vfio-user serves a PCI function"},
		{[]string{"serve", "--blk-file", image, "--vfio-user", image}, exitLasting, "--vfio-user"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--queues", "0"}, exitUsage, "--queues=0"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--socket-mode", "999"}, exitUsage, "octal digits such as 0660"},
		{[]string{"serve", "--blk-file", image, "--fd", "999", "--socket-mode", "0660"}, exitUsage, "--socket-mode applies to a socket that zvhost creates: add --socket-path"},
		{[]string{"serve", "--blk-file", image, "--socket-group", "kvm"}, exitUsage, "--socket-group applies to a socket that zvhost creates: add --socket-path"},
		{[]string{"serve", "--socket-path", "s", "--null", "--format", "raw"}, exitUsage, "leave --format and --cache out"},
		{[]string{"serve", "--socket-path", "s", "--null", "--cache", "direct"}, exitUsage, "leave --format and --cache out"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--log-level", "loud"}, exitUsage, "--log-level=loud"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--size", "1G"}, exitUsage, "--size describes a new image: add --create"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--block-size", "1024"}, exitUsage, "--block-size=1024: must be 512 or 4096"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--block-size", "4096"}, exitLasting, "it has blocks of 512 bytes: leave --block-size 4096 out"},
		{[]string{"serve", "--null", "--socket-path", "s", "--block-size", "4096"}, exitUsage, "leave --block-size out"},
		{[]string{"serve", "--blk-file", "new.zvh", "--socket-path", "s", "--create"}, exitUsage, "--size is missing"},
		{[]string{"serve", "--blk-file", "none", "--socket-path", "s"}, exitLasting, "no such file or directory"},
		{[]string{"--blk-file", "none", "--socket-path", "s"}, exitLasting, "no such file or directory"},
		{[]string{"--fd=999", "--blk-file", image}, exitLasting, "--fd=999: not an open socket"},
		{[]string{"--socket-path=s"}, exitUsage, "--blk-file=FILE"},
		{[]string{"bench"}, exitUsage, "--socket-path=PATH"},
		{[]string{"bench", "s"}, exitUsage, "takes no argument"},
		{[]string{"bench", "--socket-path", "s", "--rw", "trim"}, exitUsage, "--rw=trim: must be read, write"},
		{[]string{"bench", "--blk-file", "f", "--cache", "none"}, exitUsage, "--cache=none: must be direct or buffered"},
		{[]string{"bench", "--blk-file", "none"}, exitFailure, "--blk-file=none: no such file or directory: see whether the name is right"},
		{[]string{"bench", "--socket-path", "s", "--bs", "4KB"}, exitUsage, "KB is ambiguous"},
		{[]string{"bench", "--socket-path", "s", "--bs", "1E"}, exitUsage, "up to 16 MiB"},
		{[]string{"bench", "--socket-path", "s", "--iodepth", "0"}, exitUsage, "--iodepth=0"},
		{[]string{"bench", "--socket-path", "s", "--runtime", "10"}, exitUsage, "--runtime"},
		{[]string{"bench", "--socket-path", "s"}, exitFailure, "--socket-path=s: no such file or directory: start the back-end first"},
		{[]string{"version", "x"}, exitUsage, "takes no argument"},
	} {
		status, out, stderr := zvhost(tt.args...)
		if status != tt.status || !strings.Contains(stderr, tt.want) {
			t.Errorf("zvhost %q: status %d: %s, want status %d with %q", tt.args, status, stderr, tt.status, tt.want)
		}
		if out != "" || !strings.HasPrefix(stderr, "zvhost: ") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("zvhost %q: not one line of its own: %q, and %q on standard output", tt.args, stderr, out)
		}
	}
	if left, err := filepath.Glob("*"); err != nil || len(left) != 1 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// Every command has help with an example, and none of its lines is too long for
// a terminal.
func TestHelp(t *testing.T) {
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())[1:]
		out := must(t, append(path, "--help")...)
		if !strings.Contains(out, "Examples:\n  zvhost "+strings.Join(path, " ")) {
			t.Errorf("%s --help has no example of itself:\n%s", cmd.CommandPath(), out)
		}
		for line := range strings.Lines(out) {
			if len(line) > 115 {
				t.Errorf("%s --help: long line: %s", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				visit(sub)
			}
		}
	}
	visit(newRoot())
	if got, want := must(t), must(t, "--help"); got != want {
		t.Errorf("without arguments it prints\n%s\nnot its help", got)
	}
}

// What management software asks first, with whatever else it passes.
func TestPrintCapabilities(t *testing.T) {
	for _, args := range [][]string{
		{"--print-capabilities"},
		{"--print-capabilities", "--socket-path=/x", "--unknown", "argument"},
		{"serve", "--blk-file=none", "--print-capabilities"},
	} {
		var got struct {
			Type     string
			Features []string
		}
		if err := json.Unmarshal([]byte(must(t, args...)), &got); err != nil {
			t.Fatal(err)
		}
		if got.Type != "block" || strings.Join(got.Features, " ") != "read-only blk-file" {
			t.Errorf("zvhost %q: %+v", args, got)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"-v"}} {
		if out := must(t, args...); out != must(t, "version") {
			t.Errorf("zvhost %q prints %q", args, out)
		}
	}
	if out := must(t, "version"); !strings.HasPrefix(out, "zvhost ") || strings.Count(out, "\n") != 1 {
		t.Errorf("version prints %q", out)
	}
	var v versionInfo
	if err := json.Unmarshal([]byte(must(t, "version", "--json")), &v); err != nil || v.Version == "" || v.Go == "" {
		t.Errorf("version --json: %+v, %v", v, err)
	}
}

func TestCreateSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.zvh")
	out := must(t, "create", path, "--size", "8G", "--zone-size", "64MiB", "--zone-capacity", "48M",
		"--conventional", "4", "--max-open", "16", "--max-active", "32", "--max-append", "256K", "--block-size", "4K")
	want := path + ": 8 GiB, 128 zones of 64 MiB (capacity 48 MiB), 4 conventional, at most 16 open, at most 32 active, 4096-byte blocks, appends up to 256 KiB\n"
	if out != want {
		t.Errorf("create says\n%s, want\n%s", out, want)
	}
}

// A damaged image makes check list what is wrong and fail, without a line on
// standard error.
func TestCheck(t *testing.T) {
	path := newImage(t, "--size", "1M", "--zone-size", "64K")
	if out, want := must(t, "check", path), path+": sound\n"; out != want {
		t.Errorf("check says %q, want %q", out, want)
	}
	if out := must(t, "check", path, "--json"); out != "[]\n" {
		t.Errorf("check --json says %q", out)
	}
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	status, out, stderr := zvhost("check", path)
	if status != exitFailure || stderr != "" || !strings.Contains(out, "finding") || !strings.Contains(out, "cut short") {
		t.Errorf("check of a truncated image: status %d, %q, %q", status, out, stderr)
	}
	var list []findingJSON
	status, out, _ = zvhost("check", path, "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != exitFailure || len(list) == 0 || list[0].Where != "file" {
		t.Errorf("check --json of a truncated image: status %d, %s, %v", status, out, err)
	}
}
