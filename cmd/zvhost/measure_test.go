package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/bench"
)

// The benchmark against another process, through each door, as a program reads it and as people do.
func TestBench(t *testing.T) {
	for _, door := range []string{"--socket-path", "--vfio-user"} {
		t.Run(door, func(t *testing.T) {
			t.Chdir(t.TempDir())
			p := start(t, "", nil, nil, "serve", door, "s", "--null")
			p.until("serving")
			args := []string{"bench", door, "s", "--rw", "randwrite", "--runtime", "200ms", "--iodepth", "4", "--bs", "64K"}
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
		})
	}
}

// A PCI function's queues have a size, which bounds what can be in flight.
func TestBenchQueueSize(t *testing.T) {
	t.Chdir(t.TempDir())
	p := start(t, "", nil, nil, "serve", "--vfio-user", "s", "--null")
	p.until("serving")
	must(t, "bench", "--vfio-user", "s", "--runtime", "50ms", "--iodepth", "256")
	status, _, stderr := zvhost("bench", "--vfio-user", "s", "--runtime", "50ms", "--iodepth", "257")
	if want := "--iodepth=257: with the queue size that this back-end allows, at most 256 fit"; status != exitFailure || !strings.Contains(stderr, want) {
		t.Errorf("status %d, %s", status, stderr)
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

// benchmark is zvhost bench on the socket s, for as long as it is not told to end.
func benchmark(t *testing.T, stdout *bytes.Buffer, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"bench", "--socket-path", "s", "--runtime", "1h"}, args...)...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdout = stdout
	return cmd
}

// Under a keeper the back-end's process is replaced, and the connection stays: nothing of
// the result is lost but what the process that ended has used.
func TestBenchWhileReplaced(t *testing.T) {
	imageHere(t)
	p, _ := kept(t, "disk.zvh", "")
	p.until("serving disk.zvh on s")
	var out bytes.Buffer
	b := benchmark(t, &out, "--rw", "append", "--json")
	terminal, slave := newTerminal(t)
	b.Stderr = slave
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	said, buf := "", make([]byte, 4096)
	for !strings.Contains(said, "IOPS") { // its progress: the run has begun
		n, err := terminal.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		said += string(buf[:n])
	}
	p.signalChild(unix.SIGKILL)
	p.until("front-end of the previous process: session resumed")
	if err := b.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// On a busy machine the last answers may come too late, and then there is an error, too.
	if err := b.Wait(); err != nil && !strings.Contains(out.String(), "interrupted") {
		t.Errorf("%v: %s", err, out.String())
	}
	var r bench.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Requests == 0 || !r.ServerEnded || r.ServerCPUSeconds != 0 {
		t.Errorf("%v: %s", err, out.String())
	}
	p.signal(unix.SIGTERM)
	p.wait()
}

// Where nobody keeps the connection, the end of the back-end is an error, and so is one
// that never answers, when it is not waited for any longer.
func TestBenchOfADeadBackEnd(t *testing.T) {
	t.Chdir(t.TempDir())
	p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--null", "--fault", "latency=1h")
	p.until("serving")
	for i, tt := range []struct {
		end  func(b *program)
		want string
	}{
		{func(b *program) { b.signal(unix.SIGTERM) }, "interrupted"},
		{func(*program) { p.signal(unix.SIGKILL) }, "the back-end has closed the connection"},
	} {
		var out bytes.Buffer
		b := launch(t, benchmark(t, &out), nil)
		p.times(1+i, "took features")
		tt.end(b)
		status := b.wait()
		// It says what it was at: it may not have come to its first request.
		at := slices.ContainsFunc([]string{"waiting for ", "sending ", "acknowledgement of ", "answer to "}, func(words string) bool { return strings.Contains(b.logged(), words) })
		if status != exitFailure || !at || !strings.Contains(b.logged(), tt.want) {
			t.Errorf("status %d: %s%s", status, b.logged(), out.String())
		}
		if strings.Count(b.logged(), "\n") != 1 {
			t.Errorf("not one line: %s", b.logged())
		}
	}
}
