package main

import (
	"os"
	"strings"
	"testing"
)

// A damaged entry of the live table: check says what can be done about that one zone, and
// each of it works.
func TestRepairModes(t *testing.T) {
	path := newImage(t, "--size", "1M", "--zone-size", "64K")
	const liveOff = 64 << 10
	damage := func() {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("x"), liveOff+8*3); err != nil {
			t.Fatal(err)
		}
	}
	for _, wrong := range []struct{ arg, want string }{
		{"--repair=all", `"all" is no way to repair: want safe, zone-offline, zone-committed, superblock, superblock-copy`},
		{"--repair", "--repair zone-offline is two arguments: write --repair=zone-offline"},
	} {
		args := []string{"check", path, wrong.arg}
		if wrong.arg == "--repair" {
			args = append(args, "zone-offline")
		}
		if status, _, stderr := zvhost(args...); status != exitUsage || !strings.Contains(stderr, wrong.want) {
			t.Errorf("%q: status %d, %s", args, status, stderr)
		}
	}
	damage()
	if status, out, _ := zvhost("check", path); status != exitFailure || !strings.Contains(out, "live zone table, zone 3") {
		t.Errorf("status %d: %s", status, out)
	}
	if out := must(t, "check", path, "--repair"); !strings.Contains(out, "repaired: live zone table, zone 3: written anew") {
		t.Error(out)
	}
	// In use when its daemon died.
	for _, mode := range []string{"zone-offline", "zone-committed"} {
		p := start(t, "", nil, nil, "serve", "--socket-path="+t.TempDir()+"/s", "--blk-file="+path)
		p.until("serving " + path)
		p.signal(os.Kill)
		p.wait()
		damage()
		status, out, stderr := zvhost("check", path)
		if status != exitFailure || !strings.Contains(out, "to repair it: zvhost check "+path+" --repair=zone-offline") {
			t.Errorf("status %d: %s%s", status, out, stderr)
		}
		if status, _, stderr := zvhost("serve", "--socket-path="+t.TempDir()+"/s", "--blk-file="+path); status != exitLasting || !strings.Contains(stderr, "'--repair=zone-committed'") {
			t.Errorf("served: status %d: %s", status, stderr)
		}
		if out := must(t, "check", path, "--repair="+mode); !strings.Contains(out, "repaired: live zone table, zone 3") || !strings.HasSuffix(out, ": sound\n") {
			t.Errorf("%s: %s", mode, out)
		}
		offline := strings.Contains(must(t, "report", path), "(of)")
		if offline != (mode == "zone-offline") {
			t.Errorf("%s: zone 3 is offline: %v", mode, offline)
		}
		must(t, "zone", "set-state", path, "3", "writable")
		must(t, "check", path)
	}
}
