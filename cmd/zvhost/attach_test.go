package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/zvhost/zvhost/vduse"
)

// What attach, detach and serve --vduse say where they cannot work: in one line. The machines
// that build zvhost have no VDUSE; integration/guests/vduse.sh tests what has one.
func TestVDUSELines(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(asProgram, "1") // for what attach starts
	must(t, "create", "d.zvh", "--size", "1M", "--zone-size", "64K")
	wantLine(t, exitUsage, "--vduse serves the host's own kernel, and --socket-path, --vfio-user and --fd another process", "serve", "--vduse", "a", "--socket-path", "s", "--blk-file", "d.zvh")
	wantLine(t, exitUsage, "--incoming is for a guest that migrates", "serve", "--vduse", "a", "--incoming", "--blk-file", "d.zvh")
	wantLine(t, exitUsage, "--vduse-state is for the state of a device of --vduse", "serve", "--vduse-state", "a", "--socket-path", "s", "--blk-file", "d.zvh")
	wantLine(t, exitUsage, `--vduse: "a/b" cannot be the name of a device`, "serve", "--vduse", "a/b", "--blk-file", "d.zvh")
	wantLine(t, exitUsage, `--name: ".." cannot be the name of a device`, "attach", "d.zvh", "--name", "..")
	wantLine(t, exitFailure, "nowhere: no such file", "attach", "nowhere")
	wantLine(t, exitFailure, "d.zvh is not attached", "detach", "d.zvh")
	if _, err := os.Stat(filepath.Join(vduse.Dir, "control")); err == nil {
		return // the rest is of a host without VDUSE
	}
	wantLine(t, exitLasting, "load the modules vduse and virtio_vdpa", "serve", "--vduse", "a", "--vduse-state", "state", "--blk-file", "d.zvh")
	wantLine(t, exitLasting, "load the modules vduse and virtio_vdpa", "attach", "d.zvh", "--state", "state")
}

// The names of devices are of files, and no two files have one.
func TestDeviceName(t *testing.T) {
	t.Chdir(t.TempDir())
	seen := map[string]string{}
	for _, file := range []string{"disk.zvh", "a/disk.zvh", "ä b", "control", "a/..b"} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		name, err := new(attachment).deviceName(file)
		if err == nil {
			err = vduse.CheckName(name)
		}
		if err != nil || seen[name] != "" {
			t.Errorf("%s is called %q, as %q, %v", file, name, seen[name], err)
		}
		seen[name] = file
	}
	name, err := new(attachment).deviceName("disk.zvh")
	if err != nil || !regexp.MustCompile(`^disk\.zvh-[0-9a-f]{8}$`).MatchString(name) {
		t.Errorf("%q, %v", name, err)
	}
	if err := os.Symlink("disk.zvh", "link"); err != nil {
		t.Fatal(err)
	}
	if link, err := new(attachment).deviceName("link"); link != name {
		t.Errorf("through a link %q, %v", link, err)
	}
}
