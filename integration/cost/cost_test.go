package cost

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/internal/bench"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// A disk is a zoned image that is served on four queues.
type disk struct {
	t      *testing.T
	binary string
	socket string
	pid    int
}

// serve makes and serves an image of so many zones of 1 MiB, with zvhost as it is
// shipped: the tests themselves may run with the race detector, which costs both.
func serve(t *testing.T, zones int) *disk {
	t.Helper()
	dir := t.TempDir()
	binary, err := rig.Build(dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, binary: binary, socket: filepath.Join(dir, "socket")}
	p, err := rig.Serve(binary, "serve", "--socket-path", d.socket, "--queues", "4",
		"--blk-file", filepath.Join(dir, "disk.zvh"), "--create", "--size", fmt.Sprintf("%dM", zones), "--zone-size", "1M")
	if err != nil {
		t.Fatal(err)
	}
	d.pid = p.Cmd.Process.Pid
	t.Cleanup(func() {
		if err := p.End(unix.SIGINT); err != nil {
			t.Error(err)
		}
	})
	return d
}

// load starts a front-end that keeps the disk busy for so long.
func (d *disk) load(rw, runtime string) *exec.Cmd {
	cmd := exec.Command(d.binary, "bench", "--socket-path", d.socket, "--rw", rw, "--queues", "4", "--zones", "16", "--runtime", runtime, "--json")
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	return cmd
}

// status is a value of /proc/PID/status, in KiB.
func (d *disk) status(name string) (kib int) {
	d.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.pid))
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
				d.t.Fatalf("%q: %v", line, err)
			}
			return kib
		}
	}
	d.t.Fatalf("/proc/%d/status has no %s", d.pid, name)
	return 0
}

// processor is what all threads have used, those that have ended too.
func (d *disk) processor() time.Duration {
	d.t.Helper()
	used, err := bench.CPUTime(d.pid)
	if err != nil {
		d.t.Fatal(err)
	}
	return used
}

// However many zones there are and however busy its queues, the daemon stays small.
// Guest memory is not its own, and is counted as shared.
func TestResidentMemory(t *testing.T) {
	d := serve(t, 16384)
	const limit = 48 << 10
	for _, rw := range []string{"append", "read", "report"} {
		load := d.load(rw, "2s")
		most := 0
		for done := false; !done; {
			most = max(most, d.status("RssAnon")+d.status("RssFile"))
			time.Sleep(20 * time.Millisecond)
			done = ended(load)
		}
		if err := load.Wait(); err != nil {
			t.Fatalf("%s: %v", rw, err)
		}
		t.Logf("%s: at most %.1f MiB resident", rw, float64(most)/1024)
		if most >= limit {
			t.Errorf("%s: %d KiB resident, more than %d", rw, most, limit)
		}
	}
}

// ended is whether a process has ended and waits to be waited for.
func ended(cmd *exec.Cmd) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

// A daemon that nobody asks for anything uses no processor, though a front-end is
// there with four queues, and was a busy one before.
func TestIdleUsesNoProcessor(t *testing.T) {
	d := serve(t, 64)
	load := d.load("append", "1s")
	if err := load.Wait(); err != nil {
		t.Fatal(err)
	}
	disk, err := rig.Connect(d.socket, frontend.Options{Queues: 4})
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Queue(3).Flush(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // the runtime gives memory back after work
	before := d.processor()
	time.Sleep(10 * time.Second)
	used := d.processor() - before
	t.Logf("%v of processor in 10 s", used)
	// One tick is 10 ms; nothing is what the kernel's own accounting calls less.
	if used > 5*time.Millisecond {
		t.Errorf("%v of processor in 10 s of idleness", used)
	}
	if err := disk.Close(); err != nil {
		t.Error(err)
	}
}
