package testleak

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"
)

// grace bounds how long what is already on its way out may take to go: a
// goroutine that returns, a descriptor that another thread is closing. Nothing
// is timed against it, it only ends a hopeless wait.
const grace = 5 * time.Second

// A Snapshot is what the process held at one moment.
type Snapshot struct {
	fds        map[string]string // number -> what it is
	maps       map[string]int    // what is mapped -> how often
	goroutines int
}

// Main runs the tests of a package, and fails the run when more descriptors,
// shared mappings or goroutines are there afterwards than before. It does not
// return.
func Main(m *testing.M) {
	startPoller()
	before := Take()
	code := m.Run()
	// The fuzzing coordinator and its workers keep pipes and helper goroutines
	// of their own until they exit; fuzz targets check each round themselves.
	if code == 0 && !fuzzing() {
		if leaks := before.Wait(); len(leaks) > 0 {
			fmt.Fprintf(os.Stderr, "FAIL: the tests leaked:\n\t%s\n", strings.Join(leaks, "\n\t"))
			code = 1
		}
	}
	os.Exit(code)
}

// startPoller makes the runtime open its epoll and wake-up descriptors, which
// it keeps for ever, before the first count.
func startPoller() {
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testleak: no pipe:", err)
		os.Exit(2)
	}
	// Only a descriptor that is in the poller takes a deadline.
	_ = r.SetReadDeadline(time.Now().Add(time.Hour))
	_ = r.Close()
	_ = w.Close()
}

func fuzzing() bool {
	for _, name := range []string{"test.fuzz", "test.fuzzworker"} {
		if f := flag.Lookup(name); f != nil {
			if v := f.Value.String(); v != "" && v != "false" {
				return true
			}
		}
	}
	return false
}

// Take counts what the process holds now.
func Take() Snapshot {
	return Snapshot{fds: openFDs(), maps: sharedMaps(), goroutines: runtime.NumGoroutine()}
}

// Leaks says, a line each, what is there now that was not there at s. Empty
// means that nothing was left behind.
func (s Snapshot) Leaks() []string {
	now := Take()
	leaks := append(s.fdLeaks(now), s.mapLeaks(now)...)
	if extra := now.goroutines - s.goroutines; extra > 0 {
		leaks = append(leaks, fmt.Sprintf("%d goroutines; all that run now:\n%s", extra, stacks()))
	}
	return leaks
}

// Wait is Leaks, but gives what is already ending a moment to end.
func (s Snapshot) Wait() []string {
	return s.wait(Snapshot.Leaks)
}

// WaitFiles is Wait for descriptors and mappings only; it is cheap enough for
// each round of a fuzz target, and other goroutines of the process may come
// and go meanwhile.
func (s Snapshot) WaitFiles() []string {
	return s.wait(func(s Snapshot) []string {
		now := Snapshot{fds: openFDs(), maps: sharedMaps()}
		return append(s.fdLeaks(now), s.mapLeaks(now)...)
	})
}

func (s Snapshot) wait(leaks func(Snapshot) []string) []string {
	pause := time.Millisecond
	for waited := time.Duration(0); ; waited += pause {
		l := leaks(s)
		if len(l) == 0 || waited > grace {
			return l
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

func (s Snapshot) fdLeaks(now Snapshot) []string {
	var leaks []string
	for n, what := range now.fds {
		if was, ok := s.fds[n]; !ok || was != what {
			leaks = append(leaks, fmt.Sprintf("descriptor %s: %s", n, what))
		}
	}
	sort.Strings(leaks)
	return leaks
}

func (s Snapshot) mapLeaks(now Snapshot) []string {
	var leaks []string
	for what, n := range now.maps {
		if extra := n - s.maps[what]; extra > 0 {
			leaks = append(leaks, fmt.Sprintf("%d shared mappings of %s", extra, what))
		}
	}
	sort.Strings(leaks)
	return leaks
}

// openFDs lists the process's descriptors, without the one that lists them.
func openFDs() map[string]string {
	fds := make(map[string]string)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic("testleak: " + err.Error())
	}
	for _, e := range entries {
		// The directory's own descriptor is gone by now.
		if what, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			fds[e.Name()] = what
		}
	}
	return fds
}

// sharedMaps counts the shared mappings, which is what guest memory and files
// are; Go's own memory is private.
func sharedMaps() map[string]int {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic("testleak: " + err.Error())
	}
	maps := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		// address perms offset dev inode path
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasSuffix(f[1], "s") {
			continue
		}
		maps["inode "+f[4]+" "+strings.Join(f[5:], " ")]++
	}
	return maps
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// Files says what each open descriptor is, by its number.
func (s Snapshot) Files() map[string]string { return s.fds }
