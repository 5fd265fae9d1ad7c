package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/bench"
)

// The benchmark against another process, as a program reads it and as people do.
func TestBench(t *testing.T) {
	t.Chdir(t.TempDir())
	p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--null")
	p.until("serving")
	args := []string{"bench", "--socket-path", "s", "--rw", "randwrite", "--runtime", "200ms", "--iodepth", "4", "--bs", "64K"}
	var r bench.Result
	if err := json.Unmarshal([]byte(must(t, append(args, "--json")...)), &r); err != nil {
		t.Fatal(err)
	}
	if r.RW != bench.RandWrite || r.Requests == 0 || r.BlockBytes != 64<<10 || r.Depth != 4 || r.ServerPID != p.cmd.Process.Pid || r.ServerCPUSeconds <= 0 {
		t.Errorf("%+v", r)
	}
	if out := must(t, append(args, "--poll")...); !strings.Contains(out, "IOPS") || !strings.Contains(out, "client polling") {
		t.Error(out)
	}
}

// A file itself, and that progress is told on a terminal only.
func TestBenchOfFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"bench", "--blk-file", file, "--runtime", "3s", "--iodepth", "2"}
	if out := must(t, args...); !strings.Contains(out, "the file itself by io_uring") {
		t.Error(out)
	}
	master, slave := newTerminal(t)
	var out bytes.Buffer
	if status := run(args, &out, slave); status != exitOK || !strings.Contains(out.String(), "IOPS") {
		t.Errorf("status %d: %s", status, out.String())
	}
	said := make([]byte, 4096)
	if err := unix.SetNonblock(int(master.Fd()), true); err != nil { // what was said is there by now
		t.Fatal(err)
	}
	n, err := unix.Read(int(master.Fd()), said)
	if err != nil || !strings.HasPrefix(string(said[:n]), "\rrandread  ") || !strings.Contains(string(said[:n]), " s left") {
		t.Errorf("the terminal shows %q, %v", said[:n], err)
	}
}

// newTerminal opens a pseudo terminal (pts(4)).
func newTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}
