package foreign

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Transfer is a state that a carrier writes to, or reads from, a pipe or socket which
// another process has sent.
type Transfer struct {
	job  *job
	over bool // the job has other things to do; reaper.mu guards it
	done chan struct{}
	data []byte
	err  error
}

// Save writes a state to fd, and closes that: it is not the caller's any more. It waits for
// nothing, neither for room.
func Save(fd int, state []byte) (*Transfer, error) { return begin(doSave, fd, state) }

// Load reads a state from fd up to the end, and closes fd: it is not the caller's any more.
func Load(fd int) (*Transfer, error) { return begin(doLoad, fd, nil) }

func begin(what int32, fd int, state []byte) (*Transfer, error) {
	if len(state) > MaxState {
		Close(fd)
		return nil, fmt.Errorf("a state of %d bytes, more than %d", len(state), MaxState)
	}
	i := takeTransfer()
	if i < 0 {
		Close(fd)
		return nil, fmt.Errorf("%d transfers have not come to their end: their descriptors block, as the front-end wants them to", MaxTransfers)
	}
	t := &Transfer{job: &shared.jobs[maxThreads+i], done: make(chan struct{})}
	atomic.StoreInt32(&t.job.abort, 0)
	t.job.n = int32(copy(t.job.data[:], state))
	go t.run(i, what, fd, len(state))
	return t, nil
}

// takeTransfer is the number of a job that is not in use, -1 for none.
func takeTransfer() int {
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	if shared == nil {
		return -1
	}
	for i := range reaper.transfers {
		if !reaper.transfers[i] {
			reaper.transfers[i] = true
			return i
		}
	}
	return -1
}

func (t *Transfer) run(i int, what int32, fd, size int) {
	j := t.job
	gone, err := j.do(what, int32(fd))
	reaper.mu.Lock()
	t.over = true
	reaper.mu.Unlock()
	switch {
	case err != nil:
		t.err = fmt.Errorf("no process can be made to carry it: %w", err)
	case j.errno != 0:
		t.err = unix.Errno(j.errno)
	case what == doSave && int(j.n) != size:
		t.err = io.ErrShortWrite
	case what == doLoad:
		t.data = append(t.data, j.data[:j.n]...)
	}
	if !gone {
		if t.err == nil {
			t.err = errors.New("its carrier has ended")
		}
		atomic.StoreInt32(&j.abort, 0)
		closeElsewhere(maxThreads+i, fd)
	}
	reaper.mu.Lock()
	reaper.transfers[i] = false
	reaper.mu.Unlock()
	close(t.done)
}

// Done is closed once the transfer is over, and its descriptor closed.
func (t *Transfer) Done() <-chan struct{} { return t.done }

// Result is what was read, up to MaxState+1 bytes, once it is done.
func (t *Transfer) Result() ([]byte, error) { return t.data, t.err }

// Abort ends a transfer, if not at once, and maybe never: see Done. Any goroutine may call
// it.
func (t *Transfer) Abort() {
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	if !t.over {
		atomic.StoreInt32(&t.job.abort, 1)
		wake()
	}
}
