package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/silentfs"
	"github.com/zvhost/zvhost/vhostuser"
)

// leftovers are the processes zvhost-leftover, but for this process's own, that have a file
// of dir open, by number.
func leftovers(dir string) (pids []string) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		text, _ := os.ReadFile(name)
		if string(text) != "zvhost-leftover\n" {
			continue
		}
		proc := filepath.Dir(name)
		if status, err := os.ReadFile(proc + "/status"); err != nil || strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", os.Getpid())) {
			continue
		}
		fds, _ := filepath.Glob(proc + "/fd/*")
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); strings.HasPrefix(to, dir) {
				pids = append(pids, filepath.Base(proc))
				break
			}
		}
	}
	return pids
}

// A daemon that was sent a file of a silent file system, which close(2) waits for, ends all
// the same, and its keeper starts the next one, which has the image: when it is killed, and
// when it is asked to end.
func TestSilentFileAtTheEnd(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGTERM} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			imageHere(t)
			f := silentfs.Mount(t)
			file := f.Open(t)
			defer func() {
				f.Unmount()
				_ = unix.Close(file)
			}()
			p, _ := kept(t, "disk.zvh", "")
			p.until("serving disk.zvh on s")
			c := dial(t, "s")
			// Not before: exec closes what it inherits.
			f.Silence()
			_ = c.Set(vhostuser.SetLogFD, nil, file) // it ends the session
			p.until("that is not known to be local")
			var pids []string
			for late := time.Now().Add(patience); len(pids) != 1; pids = leftovers(filepath.Dir(f.Path())) {
				if time.Now().After(late) {
					t.Fatalf("holders: %q\n%s", pids, p.logged())
				}
				time.Sleep(time.Millisecond)
			}
			// What it had mapped it would have open.
			maps, err := os.ReadFile(fmt.Sprintf("/proc/%s/maps", pids[0]))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(maps)) {
				if f := strings.Fields(line); strings.HasSuffix(f[1], "s") && !strings.Contains(line, " /dev/zero ") {
					t.Errorf("it has mapped %s", line)
				}
			}
			p.signalChild(sig)
			p.times(2, "serving disk.zvh on s")
			_ = c.Close()
			next := dial(t, "s")
			if n, err := next.QueueNum(); n != 1 || err != nil {
				t.Errorf("%d queues, %v:\n%s", n, err, p.logged())
			}
			p.signal(unix.SIGINT)
			if status := p.wait(); status != exitOK {
				t.Errorf("status %d:\n%s", status, p.logged())
			}
			if sig == unix.SIGTERM {
				p.until("a process zvhost-leftover holds them")
			}
		})
	}
}
