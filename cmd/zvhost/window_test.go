package main

import (
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
)

// --zones is a range of zones, or one.
func TestWindowFlag(t *testing.T) {
	for text, want := range map[string]disk.Window{
		"0": {First: 0, Last: 0}, "7": {First: 7, Last: 7}, "16-79": {First: 16, Last: 79}, "5-5": {First: 5, Last: 5}, "0-65535": {First: 0, Last: 65535},
	} {
		var f windowFlag
		if f.String() != "" {
			t.Errorf("nothing is written as %q", f.String())
		}
		if err := f.Set(text); err != nil || *f.window != want {
			t.Errorf("%q is read as %+v, %v", text, f.window, err)
		}
		var again windowFlag
		if err := again.Set(f.String()); err != nil || *again.window != want {
			t.Errorf("%q is written as %q", text, f.String())
		}
	}
	for _, text := range []string{"", "-", "5-", "-5", "7-5", "a", "1-b", "1,2", "1-2-3", "1..2", " 1", "1 - 2", "0x10", "1-99999999999999999999", "--1"} {
		var f windowFlag
		if err := f.Set(text); err == nil || !strings.Contains(err.Error(), "such as 16-79") || f.window != nil {
			t.Errorf("%q is read as %+v, %v", text, f.window, err)
		}
	}
}

// What is no zoned block device has no window, and says so.
func TestWindowErrors(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	image := newImage(t, "--size", "1M", "--zone-size", "64K")
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--zones", "79-16"}, exitUsage, "not a range of zones"},
		{[]string{"serve", "--blk-file", image, "--socket-path", "s", "--zones", "0-3"}, exitLasting, "leave --zones out"},
		{[]string{"serve", "--blk-file", "none", "--socket-path", "s", "--zones", "0-3"}, exitLasting, "no such file or directory"},
		{[]string{"report", image, "--zones", "x"}, exitUsage, "not a range of zones"},
		{[]string{"report", image, "--zones", "0-3"}, exitUsage, "--zones is for zoned block devices"},
		{[]string{"report", "none", "--zones", "0-3"}, exitFailure, "no such file or directory"},
		{[]string{"report", "/dev/null"}, exitFailure, "neither a file nor a block device"},
		{[]string{"report", "/dev/null", "--zones", "0-3"}, exitFailure, "neither a file nor a block device"},
		{[]string{"report", dir}, exitFailure, "neither a file nor a block device"},
	} {
		status, out, stderr := zvhost(tt.args...)
		if status != tt.status || !strings.Contains(stderr, tt.want) || out != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("zvhost %q: status %d: %s%s, want status %d with %q", tt.args, status, out, stderr, tt.status, tt.want)
		}
	}
}
