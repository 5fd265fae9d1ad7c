package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// damage makes the first superblock of the image at path unreadable.
func damage(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damage"), off); err != nil {
		t.Fatal(err)
	}
}

func TestCheckRepair(t *testing.T) {
	path := newImage(t, "--size", "1M", "--zone-size", "64K")
	if out := must(t, "check", path, "--repair"); out != path+": sound\n" {
		t.Errorf("repair of a sound image says %q", out)
	}
	damage(t, path, 50)
	if status, _, stderr := zvhost("report", path); status != exitFailure || !strings.Contains(stderr, "run 'zvhost check --repair'") {
		t.Errorf("report of a damaged image: status %d, %q", status, stderr)
	}
	want := path + ": repaired: superblock: written anew from its copy\n" + path + ": sound\n"
	if out := must(t, "check", path, "--repair"); out != want {
		t.Errorf("repair says %q, want %q", out, want)
	}
	must(t, "report", path)

	damage(t, path, 60<<10)
	var list []findingJSON
	out := must(t, "check", path, "--repair", "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || !list[0].Repaired {
		t.Errorf("repair --json says %s, %v", out, err)
	}

	damage(t, path, 50)
	damage(t, path, 60<<10+50)
	if status, out, _ := zvhost("check", path, "--repair"); status != exitFailure || strings.Contains(out, "repaired") {
		t.Errorf("with both superblocks damaged: status %d, %q", status, out)
	}
}
