package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What is no disk, or not the one that was asked for, is refused at once, in one line that
// says what it is and what to do, in no words of Go's; serve says by its status that it
// would be so again. Nothing is left behind, and what is there stays.
func TestFilesThatAreNoDisk(t *testing.T) {
	t.Chdir(t.TempDir())
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(listener) }()
	for _, e := range []error{
		os.Mkdir("dir", 0o700), unix.Mkfifo("fifo", 0o600), unix.Bind(listener, &unix.SockaddrUnix{Name: "sock"}),
		os.Symlink("loop", "loop"), os.Symlink("nowhere", "dangling"),
		os.WriteFile("empty", nil, 0o600), os.WriteFile("text", []byte("hello"), 0o600), os.WriteFile("raw", make([]byte, 1<<20), 0o600),
	} {
		if e != nil {
			t.Fatal(e)
		}
	}
	must(t, "create", "img", "--size", "1M", "--zone-size", "64K")
	was, err := filepath.Glob("*")
	if err != nil {
		t.Fatal(err)
	}
	serve := func(file string, more ...string) []string {
		return append([]string{"serve", "--socket-path", "s", "--blk-file", file}, more...)
	}
	geometry := []string{"--size", "1M", "--zone-size", "64K"}
	create := func(file string) []string { return append([]string{"create", file}, geometry...) }
	again := append([]string{"--create"}, geometry...)
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{serve("dir"), exitLasting, "dir is neither a file nor a block device"},
		{serve("fifo"), exitLasting, "fifo is neither a file nor a block device"},
		{serve("sock"), exitLasting, "sock is neither a file nor a block device"},
		{serve("/dev/null"), exitLasting, "/dev/null is neither a file nor a block device"},
		{serve("empty"), exitLasting, "it has 0 bytes, less than one block"},
		{serve("text"), exitLasting, "it has 5 bytes, less than one block"},
		{serve("loop"), exitLasting, "its symbolic links lead in a circle"},
		{serve("dangling"), exitLasting, "dangling: no such file or directory: see whether the name is right"},
		{serve("raw", "--format", "zoned"), exitLasting, "raw is neither a zoned image nor a zoned drive"},
		{serve("raw", "--zones", "0-1"), exitLasting, "leave --zones out"},
		{serve("raw", again...), exitLasting, "--create: raw exists already and is an ordinary disk"},
		{serve("dangling", again...), exitLasting, "a symbolic link of this name leads to nothing"},
		{serve("raw", "--socket-group", "nosuchgroup"), exitLasting, "--socket-group=nosuchgroup: there is no such group"},
		{serve("raw", "--control-path", "./s"), exitLasting, "--control-path=./s is where front-ends connect, too"},
		{create(""), exitFailure, "the name of the file is empty"},
		{create("none/x"), exitFailure, "its directory is not there; make that first"},
		{create("dangling"), exitFailure, "a symbolic link of this name leads to nothing"},
		{[]string{"check", ""}, exitFailure, "the name of the file is empty"},
		{[]string{"check", "sock"}, exitFailure, "sock is neither a file nor a block device"},
		{[]string{"check", "none"}, exitFailure, "disk none: no such file or directory: see whether the name is right"},
		{[]string{"report", "loop"}, exitFailure, "its symbolic links lead in a circle"},
		{[]string{"resize", ""}, exitFailure, "the name of the control socket is empty"},
		{[]string{"fault", "list", ""}, exitFailure, "the name of the control socket is empty"},
		{[]string{"zone", "set-state", "img", "1.5", "full"}, exitUsage, "want numbers and ranges as in 3,5-7, or all"},
		{[]string{"zone", "set-state", "img", "3-1", "full"}, exitUsage, "the range ends before it begins"},
		{[]string{"zone", "set-state", "img", "99", "full"}, exitFailure, "the disk has zones 0 to 15"},
		{[]string{"zone", "set-state", "text", "1", "full"}, exitFailure, "the disk is an ordinary one"},
		{[]string{"bench", "--blk-file", "fifo"}, exitFailure, "--blk-file=fifo: neither a file nor a block device"},
		{[]string{"bench", "--blk-file", "dir"}, exitFailure, "--blk-file=dir: neither a file nor a block device"},
		{[]string{"bench", "--blk-file", "/dev/null"}, exitFailure, "--blk-file=/dev/null: neither a file nor a block device"},
		{[]string{"bench", "--blk-file", "raw", "--bs", "8G"}, exitUsage, "--bs=8G: must be a multiple of 512, up to 16 MiB"},
		{[]string{"keeper", "--child", "--", "none"}, exitFailure, `start "none": no program of this name is in PATH`},
		{[]string{"keeper", "--child", "--", "none/x"}, exitFailure, `start "none/x": no such file or directory`},
		{[]string{"keeper", "--child", "--", "./text"}, exitFailure, `start "./text": permission denied`},
		{[]string{"check", "red\x1b[31m\xff\n"}, exitFailure, `disk red\x1b[31m\xff; : no such file`},
	} {
		status, out, stderr := zvhost(tt.args...)
		if status != tt.status || !strings.Contains(stderr, tt.want) {
			t.Errorf("zvhost %q: status %d: %s, want status %d with %q", tt.args, status, stderr, tt.status, tt.want)
		}
		if out != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("zvhost %q: not one line: %q, and %q on standard output", tt.args, stderr, out)
		}
		for _, inner := range []string{"open ", "dial", "exec:", "group: unknown", "\x1b"} {
			if strings.Contains(stderr, inner) {
				t.Errorf("zvhost %q: %q is not the user's word: %s", tt.args, inner, stderr)
			}
		}
	}
	if left, err := filepath.Glob("*"); err != nil || len(left) != len(was) {
		t.Errorf("there was %q, and is %q, %v", was, left, err)
	}
}

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                  "",
		"a b: 'c' \"d\"":    "a b: 'c' \"d\"",
		"日本 \ufffd":         "日本 \ufffd",
		"a\nb\r\x00\x1b[0m": `a; b\r\x00\x1b[0m`,
		"\xff\u00a0\u202e":  `\xff\u00a0\u202e`,
	} {
		if got := oneLine(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// The name of a file that is checked cannot break a line of the output, and the command that
// repairs it can be pasted whatever its name is.
func TestNamesInOutput(t *testing.T) {
	t.Chdir(t.TempDir())
	const name = "it's; echo\nnew.zvh"
	if out, want := must(t, "create", name, "--size", "1M", "--zone-size", "64K"), "it's; echo; new.zvh: 1 MiB"; !strings.HasPrefix(out, want) || strings.Count(out, "\n") != 1 {
		t.Errorf("create says %q, want %q", out, want)
	}
	if out, want := must(t, "check", name), "it's; echo; new.zvh: sound\n"; out != want {
		t.Errorf("check says %q, want %q", out, want)
	}
	for text, want := range map[string]string{
		"/srv/disk-1_a.zvh": "/srv/disk-1_a.zvh",
		"größe.zvh":         "größe.zvh",
		"":                  "''",
		"a b":               "'a b'",
		"x;reboot":          "'x;reboot'",
		"it's $HOME":        `'it'\''s $HOME'`,
		name:                `$'it\x27s; echo\x0anew.zvh'`,
		"\xff":              `$'\xff'`,
	} {
		if got := shellWord(text); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	if got, want := named("zvhost check --repair=x FILE", "a b"), "zvhost check --repair=x 'a b'"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
