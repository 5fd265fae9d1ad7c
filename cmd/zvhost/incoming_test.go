package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// signalChild sends sig to the daemon that p, a keeper, keeps, once there is one.
func (p *program) signalChild(sig unix.Signal) {
	p.t.Helper()
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(time.Millisecond) {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			for _, child := range strings.Fields(string(text)) {
				name, err := os.ReadFile("/proc/" + child + "/comm")
				pid, aerr := strconv.Atoi(child)
				if err != nil || aerr != nil || string(name) == "zvhost-leftover\n" {
					continue
				}
				if err := unix.Kill(pid, sig); err != nil {
					p.t.Fatal(err)
				}
				return
			}
		}
	}
	p.t.Fatalf("it keeps no daemon:\n%s", p.logged())
}

// A guest goes to another daemon and comes back. Each of the two dies now and then,
// and its keeper starts another: one that had let go of the disk leaves it alone, and
// one that had taken it goes on with it.
func TestMovesUnderKeepers(t *testing.T) {
	imageHere(t)
	here := start(t, "", nil, nil, "keeper", "--", os.Args[0], "serve", "--socket-path", "s", "--blk-file", "disk.zvh")
	here.times(1, "serving")
	there := start(t, "", nil, nil, "keeper", "--", os.Args[0], "serve", "--socket-path", "t", "--blk-file", "disk.zvh", "--incoming")
	there.times(1, "is left to another zvhost until queues start here")

	d, err := frontend.Open(dial(t, "s"), frontend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	q, data, next := d.Queue(0), bytes.Repeat([]byte("zone"), 128), uint64(128)
	appends := func() {
		t.Helper()
		at, err := q.Append(data, 128)
		if err != nil || at != next {
			t.Fatalf("an append went to sector %d, not %d: %v\n%s%s", at, next, err, here.logged(), there.logged())
		}
		next++
	}
	stop := func() (base uint32) {
		t.Helper()
		l, err := d.StartLog()
		if err == nil {
			base, err = q.Stop()
			err = errors.Join(err, l.Free())
		}
		if err != nil {
			t.Fatalf("%v\n%s%s", err, here.logged(), there.logged())
		}
		return base
	}
	appends()
	there.signalChild(unix.SIGKILL)
	there.times(2, "is left to another zvhost until queues start here")

	base := stop()
	home, err := d.Move(dial(t, "t"), []uint32{base})
	if err != nil {
		t.Fatalf("%v\n%s%s", err, here.logged(), there.logged())
	}
	appends()
	there.signalChild(unix.SIGKILL)
	appends()
	there.times(2, "the disk is acquired")
	here.signalChild(unix.SIGKILL)
	here.times(1, "is left to another zvhost until queues start here")
	appends()

	base = stop()
	away := d.Client
	d.Client = home // the session that the daemon after the one that died has
	if err := q.Start(base); err != nil {
		t.Fatalf("%v\n%s%s", err, here.logged(), there.logged())
	}
	appends()
	here.signalChild(unix.SIGKILL)
	appends()
	if err := errors.Join(d.Close(), away.Close()); err != nil {
		t.Error(err)
	}
	for _, p := range []*program{here, there} {
		p.signal(unix.SIGTERM)
		if status := p.wait(); status != exitOK {
			t.Errorf("status %d:\n%s", status, p.logged())
		}
	}
	if n := strings.Count(here.logged(), "is left to another zvhost"); n != 1 { // all is logged by now
		t.Errorf("after a death with the disk it was left to another one:\n%s", here.logged())
	}
	if z := zones(t)[1]; written(z) != next-128 {
		t.Errorf("zone 1: %+v, not %d sectors", z, next-128)
	}
	if out := must(t, "check", "disk.zvh"); out != "disk.zvh: sound\n" {
		t.Errorf("check says %q", out)
	}
}
