package foreign

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/silentfs"
)

func pipeOf(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// A state goes through a pipe, in both directions, and with it the end of the pipe.
func TestTransfer(t *testing.T) {
	r, w := pipeOf(t)
	out, err := Save(w, []byte("a state"))
	if err != nil {
		t.Fatal(err)
	}
	in, err := Load(r)
	if err != nil {
		t.Fatal(err)
	}
	<-out.Done()
	<-in.Done()
	if _, err := out.Result(); err != nil {
		t.Error(err)
	}
	if state, err := in.Result(); string(state) != "a state" || err != nil {
		t.Errorf("%q, %v", state, err)
	}
	settled(t, 0)
}

// Transfers that have no end are bounded, and can be given up.
func TestTransfersAreBounded(t *testing.T) {
	var all []*Transfer
	var ends []int
	for range MaxTransfers {
		r, w := pipeOf(t)
		tr, err := Load(r)
		if err != nil {
			t.Fatal(err)
		}
		all, ends = append(all, tr), append(ends, w)
	}
	r, w := pipeOf(t)
	if _, err := Load(r); err == nil || !strings.Contains(err.Error(), "32 transfers have not come to their end") {
		t.Errorf("one too many: %v", err)
	}
	for i, w := range append(ends, w) {
		if i < len(all) {
			all[i].Abort()
			<-all[i].Done()
			all[i].Abort() // it does nothing any more
		}
		eventually(t, "the other end has no reader", func() bool {
			_, err := unix.Write(w, []byte("x"))
			return err == unix.EPIPE
		})
		_ = unix.Close(w)
	}
	settled(t, 0)
}

// What waits for the lock of a pipe is a carrier, and none of this process's threads: also
// where a socket has the pipe in its queue.
func TestCloseHeldPipe(t *testing.T) {
	r, w := pipeOf(t)
	release := silentfs.HoldPipe(t, w)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(pair[1], []byte("x"), unix.UnixRights(r), nil, 0); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(r) // the one in the queue is the last one
	Close(pair[0])
	Close(w) // the process that holds it has another
	eventually(t, "a carrier waits", func() bool {
		pid := holder.Load()
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		for _, child := range strings.Fields(string(children)) {
			if stat, _ := os.ReadFile("/proc/" + child + "/stat"); strings.Contains(string(stat), "(zvhost-carrier) D ") {
				return true
			}
		}
		return false
	})
	eventually(t, "nothing else does", func() bool {
		all, _ := Left()
		return all == 1 && !isOpen(pair[0])
	})
	release()
	settled(t, 0)
	_ = unix.Close(pair[1])
}
