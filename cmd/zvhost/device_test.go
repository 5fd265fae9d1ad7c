package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/internal/loopdev"
)

// wantLine runs zvhost, which has to end with the status and one line on stderr with said
// in it.
func wantLine(t *testing.T, want int, said string, args ...string) {
	t.Helper()
	status, out, stderr := zvhost(args...)
	if status != want || !strings.Contains(stderr, said) || strings.Count(stderr, "\n") != 1 || out != "" {
		t.Errorf("zvhost %q: status %d, %q, %q; want status %d and a line that says %q", args, status, out, stderr, want, said)
	}
}

// A zoned image that was copied onto a block device: what would use it says that it is
// one, and what to do, and changes nothing. The report reads it.
func TestImageOnDevice(t *testing.T) {
	file := newImage(t, "--size", "4M", "--zone-size", "64K")
	image, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	path := loopdev.File(t, int64(len(image)+4095)&^4095)
	dev := loopdev.Attach(t, path, loopdev.Options{})
	f, err := os.OpenFile(dev.Path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(image)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	for _, node := range []string{dev.Path, dev.Node()} {
		if got, want := must(t, "report", node), must(t, "report", file); got != want {
			t.Errorf("report of %s: %s; want %s", node, got, want)
		}
		for _, args := range [][]string{
			{"serve", "--socket-path", "s", "--blk-file", node},
			{"serve", "--socket-path", "s", "--read-only", "--blk-file", node},
			{"serve", "--socket-path", "s", "--format", "zoned", "--blk-file", node},
			{"serve", "--socket-path", "s", "--cache", "direct", "--blk-file", node},
			{"check", node}, {"check", "--json", node}, {"check", "--repair", node}, {"check", "--repair=zone-offline", node},
			{"zone", "set-state", node, "0", "offline"},
		} {
			status := exitFailure
			if args[0] == "serve" {
				status = exitLasting // another try would find the same
			}
			wantLine(t, status, node+" is a block device that holds a zoned image", args...)
		}
	}
	if got, err := os.ReadFile(dev.Path); err != nil || !strings.HasPrefix(string(got), string(image)) {
		t.Errorf("the device has been changed, %v", err)
	}
}

// A device that cannot be had says who has it, or what is wrong with it, in one line.
func TestDeviceThatCannotBeServed(t *testing.T) {
	path := loopdev.File(t, 16<<20)
	t.Chdir(t.TempDir())
	t.Run("mounted", func(t *testing.T) {
		dev := loopdev.Attach(t, path, loopdev.Options{})
		dev.FileSystem()
		dir := dev.Mount(0)
		wantLine(t, exitFailure, "is in use: mounted at "+dir, "serve", "--socket-path", "s", "--blk-file", dev.Path)
		wantLine(t, exitFailure, "is in use: mounted at "+dir, "serve", "--socket-path", "s", "--blk-file", dev.Path, "--read-only")
		wantLine(t, exitFailure, "losetup -d "+dev.Path, "serve", "--socket-path", "s", "--blk-file", path)
	})
	t.Run("read-only", func(t *testing.T) {
		dev := loopdev.Attach(t, path, loopdev.Options{ReadOnly: true})
		wantLine(t, exitLasting, "the device is read-only", "serve", "--socket-path", "s", "--blk-file", dev.Path)
	})
}
