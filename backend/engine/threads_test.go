package engine

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// No more helpers are started than were allowed.
func TestHelpers(t *testing.T) {
	for _, helpers := range []int{1, 3, 0} {
		r, threads := newThreads(t, helpers)
		testBatches(r, newFile(t, memoryDir(t)), 64, 50)
		if got := threads.started; got > max(helpers, DefaultThreads) || helpers > 0 && got > helpers {
			t.Errorf("%d helpers, at most %d were allowed", got, helpers)
		}
	}
}

// A single read or write is done by the worker itself, without a helper and
// without a wake-up.
func TestSingleIsInline(t *testing.T) {
	f := newFile(t, memoryDir(t))
	r, threads := newThreads(t, 0)
	for range 10 {
		op := &Op{Code: Writev, FD: int(f.Fd()), Len: 512, Iov: iovecs(make([]byte, 512))}
		r.Queue(op)
		r.Submit()
		if r.Reap() != op {
			t.Fatal("it is not done when Submit returns")
		}
	}
	r.Submit() // nothing is staged
	if threads.started != 0 || r.wakes.Load() != 0 {
		t.Errorf("%d helpers, %d wake-ups", threads.started, r.wakes.Load())
	}
}

// A helper that blocks, here on a fifo that nobody writes to, does not hold up
// the others or the worker; Close waits for it.
func TestCloseWaits(t *testing.T) {
	dir := t.TempDir()
	f := newFile(t, dir)
	var mu sync.Mutex
	mu.Lock() // held while the Op's completion is under way
	var closed atomic.Bool
	r := NewThreads(1, func() {
		mu.Lock()
		defer mu.Unlock()
		if closed.Load() {
			t.Error("Close returned while an Op was in flight")
		}
	})
	op := &Op{Code: Fdatasync, FD: int(f.Fd())}
	r.Queue(op)
	r.Submit()
	done := make(chan struct{})
	go func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		closed.Store(true)
		close(done)
	}()
	for r.Reap() == nil {
		time.Sleep(time.Millisecond)
	}
	w := &Op{Code: Writev, FD: int(f.Fd()), Len: 1, Iov: iovecs([]byte("x"))}
	r.Queue(w)
	r.Submit()
	if r.Reap() != w || w.Err != nil {
		t.Error("the worker is held up by a helper")
	}
	mu.Unlock()
	<-done
}
