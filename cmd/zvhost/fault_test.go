package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// guest is a front-end that drives the disk behind the socket at path.
func guest(t *testing.T, path string) *frontend.Queue {
	t.Helper()
	c, err := frontend.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := frontend.Open(c, frontend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d.Queue(0)
}

func status(t *testing.T, what string, want byte, err error) {
	t.Helper()
	if got := frontend.Status(err); got != want {
		t.Errorf("%s: %s, want %s", what, driver.StatusString(got), driver.StatusString(want))
	}
}

// A disk is broken on purpose, at create, at the start and while a guest uses it,
// all from the command line, and mended again.
func TestBreakItOnPurpose(t *testing.T) {
	t.Chdir(t.TempDir())
	out := must(t, "create", "d.zvh", "--size", "1M", "--zone-size", "64K", "--conventional", "2",
		"--read-only-zones", "1,3", "--offline-zones", "4", "--full-zones", "5-6", "--fault", "write,zone=8,after=2", "--fault", "flush,once")
	if !strings.Contains(out, "2 read-only, 1 offline, 2 full, 2 faults") {
		t.Errorf("create says %q", out)
	}
	must(t, "check", "d.zvh")
	p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--blk-file", "d.zvh", "--control-path", "c", "--fault", "read,sectors=1152-1279")
	p.until("serving d.zvh")
	p.until("fault 3: read,sectors=1152-1279")
	q := guest(t, "s")
	data, zeroes := bytes.Repeat([]byte("d"), 4096), make([]byte, 4096)

	status(t, "write to a read-only zone", driver.StatusZoneInvalidCmd, q.Write(data, 3*128))
	status(t, "write to a conventional read-only zone", driver.StatusZoneInvalidCmd, q.Write(data, 128))
	status(t, "read of an offline zone", driver.StatusZoneInvalidCmd, q.Read(zeroes, 4*128))
	status(t, "write to a full zone", driver.StatusZoneInvalidCmd, q.Write(data, 5*128))
	status(t, "write with a fault", driver.StatusIOErr, q.Write(data, 8*128))
	status(t, "write behind what has landed", driver.StatusIOErr, q.Write(data, 8*128+2))
	status(t, "read with a fault", driver.StatusIOErr, q.Read(zeroes, 9*128))
	status(t, "flush with a fault", driver.StatusIOErr, q.Flush())
	status(t, "flush", driver.StatusOK, q.Flush())

	if got := must(t, "fault", "add", "c", "append,zone=10,once", "latency=1ms,op=flush"); got != "4\n5\n" {
		t.Errorf("fault add says %q", got)
	}
	_, err := q.Append(data, 10*128)
	status(t, "append with a fault", driver.StatusIOErr, err)
	_, err = q.Append(data, 10*128)
	status(t, "append", driver.StatusOK, err)
	status(t, "late flush", driver.StatusOK, q.Flush())
	want := "ID  STRUCK  FAULT\n1   2       write,zone=8,after=2\n2   1       flush,once (spent)\n3   1       read,sectors=1152-1279\n" +
		"4   1       append,zone=10,once (spent)\n5   1       latency=1ms,op=flush\n"
	if got := must(t, "fault", "list", "c"); got != want {
		t.Errorf("fault list says\n%swant\n%s", got, want)
	}
	var list []disk.FaultStatus
	if err := json.Unmarshal([]byte(must(t, "fault", "list", "c", "--json")), &list); err != nil || len(list) != 5 || list[3].Fault.String() != "append,zone=10,once" {
		t.Errorf("%+v, %v", list, err)
	}
	if got := must(t, "fault", "clear", "c", "1", "3"); got != "2 faults cleared\n" {
		t.Errorf("fault clear says %q", got)
	}
	status(t, "write without a fault", driver.StatusOK, q.Write(data, 8*128+4))
	must(t, "fault", "clear", "c", "all")
	must(t, "fault", "clear", "c")
	if got := must(t, "fault", "list", "c"); got != "no faults\n" {
		t.Errorf("fault list says %q", got)
	}
	if got := must(t, "fault", "list", "c", "--json"); got != "[]\n" {
		t.Errorf("fault list --json says %q", got)
	}

	if got := must(t, "zone", "set-state", "c", "8,10-11", "read-only"); got != "3 zones set to read-only\n" {
		t.Errorf("set-state says %q", got)
	}
	status(t, "write to a zone that has become read-only", driver.StatusZoneInvalidCmd, q.Write(data, 8*128+12))
	zones, err := q.ReportAll()
	if err != nil || zones[8].State != byte(zone.ReadOnly) || zones[9].State != byte(zone.Empty) || zones[11].State != byte(zone.ReadOnly) {
		t.Errorf("%+v, %v", zones, err)
	}
	must(t, "zone", "set-state", "c", "all", "writable")
	status(t, "write to a zone that is back", driver.StatusOK, q.Write(data, 8*128+12))

	_, _, stderr := zvhost("zone", "set-state", "d.zvh", "3", "offline")
	if !strings.Contains(stderr, fmt.Sprintf("in use by process %d (", p.cmd.Process.Pid)) || !strings.Contains(stderr, "give its control socket instead") {
		t.Errorf("set-state of an image that is served: %s", stderr)
	}
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
	if _, err := os.Lstat("c"); err == nil {
		t.Error("the control socket is still there")
	}
	must(t, "check", "d.zvh")
	must(t, "zone", "set-state", "d.zvh", "3", "offline")
	must(t, "zone", "set-state", "d.zvh", "8", "empty")
	must(t, "check", "d.zvh")
	lines := strings.Split(must(t, "report", "d.zvh"), "\n")
	if !strings.Contains(lines[3], "(of)") || !strings.Contains(lines[8], "(em)") || !strings.Contains(lines[10], "wptr 0x000008") {
		t.Errorf("the report says\n%s", strings.Join(lines, "\n"))
	}
}

// An ordinary disk has faults too, and no zones.
func TestBreakOrdinaryDisk(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("raw", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--blk-file", "raw", "--control-path", "c", "--fault", "write,sectors=8-15,once")
	p.until("serving raw")
	q := guest(t, "s")
	status(t, "write with a fault", driver.StatusIOErr, q.Write(make([]byte, 4096), 8))
	status(t, "write", driver.StatusOK, q.Write(make([]byte, 4096), 8))
	for _, args := range [][]string{{"zone", "set-state", "c", "0", "offline"}, {"fault", "add", "c", "append"}, {"fault", "add", "c", "read,zone=1"}} {
		if code, _, stderr := zvhost(args...); code != exitFailure || !strings.Contains(stderr, "the disk is an ordinary one") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: status %d: %s", args, code, stderr)
		}
	}
}

// Wrong command lines say in one line what is wrong.
func TestFaultErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, "create", "d.zvh", "--size", "1M", "--zone-size", "64K", "--conventional", "1")
	if err := os.WriteFile("plain", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	geometry := []string{"--size", "1M", "--zone-size", "64K"}
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"fault", "add"}, exitUsage, "needs the daemon's control socket"},
		{[]string{"fault", "add", "c"}, exitUsage, "needs a SPEC after the socket"},
		{[]string{"fault", "add", "c", "wirte"}, exitUsage, `"wirte" is no kind of fault`},
		{[]string{"fault", "add", "c", "write"}, exitFailure, "the control socket c: no such file"},
		{[]string{"fault", "add", "d.zvh", "write"}, exitFailure, "d.zvh is no socket: give a daemon's --control-path"},
		{[]string{"fault", "list"}, exitUsage, "needs the daemon's control socket"},
		{[]string{"fault", "list", "c", "3"}, exitUsage, `was given "3" too`},
		{[]string{"fault", "clear", "c", "three"}, exitUsage, `"three" is not the number of a fault`},
		{[]string{"fault", "mend"}, exitUsage, "mend"},
		{[]string{"zone", "set-state", "d.zvh", "3"}, exitUsage, "needs an image or a control socket, zones and a state"},
		{[]string{"zone", "set-state", "d.zvh", "3", "broken"}, exitUsage, `"broken" is no state`},
		{[]string{"zone", "set-state", "d.zvh", "99", "full"}, exitFailure, "zone 99: the disk has zones 0 to 15"},
		{[]string{"zone", "set-state", "d.zvh", "0", "full"}, exitFailure, "it is conventional"},
		{[]string{"zone", "set-state", "plain", "0", "offline"}, exitFailure, "plain: the disk is an ordinary one"},
		{[]string{"zone", "set-state", "none", "0", "full"}, exitFailure, "no such file"},
		{append([]string{"create", "n.zvh", "--fault", "x"}, geometry...), exitUsage, `fault "x"`},
		{append([]string{"create", "n.zvh", "--full-zones", "16"}, geometry...), exitUsage, "--full-zones: zone 16"},
		{append([]string{"create", "n.zvh", "--offline-zones", "1", "--full-zones", "1"}, geometry...), exitFailure, "both offline and full"},
		{append([]string{"create", "n.zvh", "--fault", "read,zone=16"}, geometry...), exitFailure, "beyond the last, 15"},
		{[]string{"serve", "--socket-path", "s", "--blk-file", "d.zvh", "--fault", "read,zone=16"}, exitLasting, "--fault: d.zvh: "},
		{[]string{"serve", "--socket-path", "s", "--blk-file", "d.zvh", "--control-path", "s"}, exitUsage, "give two paths"},
	} {
		code, out, stderr := zvhost(tt.args...)
		if code != tt.status || !strings.Contains(stderr, tt.want) || out != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("zvhost %q: status %d: %q, %q; want status %d with %q", tt.args, code, stderr, out, tt.status, tt.want)
		}
	}
	if _, err := os.Lstat("n.zvh"); err == nil {
		t.Error("half an image was left behind")
	}
}
