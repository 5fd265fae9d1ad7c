//go:build zvhost_failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// deadly is the point at which this process dies; numPoints for none. left is how
// often it still passes it.
var (
	deadly = numPoints
	left   atomic.Int64
)

func init() {
	path := os.Getenv("ZVHOST_FAILPOINT")
	text, err := os.ReadFile(path)
	if err != nil || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) { // nothing is armed, or this is the keeper
		return
	}
	_ = os.Remove(path)
	var name string
	var n int64
	if _, err := fmt.Sscan(string(text), &name, &n); err != nil {
		panic(err)
	}
	for p := range numPoints {
		if names[p] == name {
			left.Store(n)
			deadly = p
		}
	}
}

// Hit is where a process may die.
func Hit(p Point) {
	if p == deadly && left.Add(-1) == 0 {
		fmt.Fprintln(os.Stderr, "failpoint", p)
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // it takes a moment
	}
}
