package main

import (
	"os"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio/driver"
)

// A disk grows from the command line, and what cannot grow says why.
func TestResizeCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("d.raw", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--blk-file", "d.raw", "--control-path", "c")
	p.until("serving d.raw")
	q := guest(t, "s")
	if out := must(t, "resize", "c"); out != "1 MiB, as before\n" {
		t.Errorf("nothing has changed: %q", out)
	}
	if err := os.Truncate("d.raw", 3<<20); err != nil {
		t.Fatal(err)
	}
	if out := must(t, "resize", "c"); out != "3 MiB (before: 1 MiB); the guest sees it when it starts again: no front-end is connected that can be notified\n" {
		t.Errorf("it has grown: %q", out)
	}
	status(t, "write to what is new", driver.StatusOK, q.Write(make([]byte, 512), 3<<11-1))
	p.until("info    the disk has grown from 1 MiB to 3 MiB")

	must(t, "create", "z.zvh", "--size", "1M", "--zone-size", "64K")
	z := start(t, "", nil, nil, "serve", "--socket-path", "zs", "--blk-file", "z.zvh", "--control-path", "zc")
	z.until("serving z.zvh")
	for want, args := range map[string][]string{
		"the disk is zoned: its size is fixed": {"resize", "zc"},
		"d.raw is no socket":                   {"resize", "d.raw"},
		"needs a control socket":               {"resize"},
	} {
		var out, errs strings.Builder
		if code := run(args, &out, &errs); code == exitOK || !strings.Contains(errs.String(), want) {
			t.Errorf("%q: %d, %q does not say %q", args, code, errs.String(), want)
		}
	}
}
