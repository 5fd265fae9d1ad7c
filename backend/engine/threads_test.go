package engine

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A rig is an engine with the wake-ups that it made.
type rig struct {
	*Threads
	t     *testing.T
	woken chan struct{}
	wakes atomic.Int64
}

func newRig(t *testing.T, helpers int) *rig {
	t.Helper()
	r := &rig{t: t, woken: make(chan struct{}, 1)}
	r.Threads = NewThreads(helpers, func() {
		r.wakes.Add(1)
		select {
		case r.woken <- struct{}{}:
		default:
		}
	})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// next returns the next Op that finishes, sleeping as a worker does.
func (r *rig) next() *Op {
	r.t.Helper()
	for {
		if op := r.Reap(); op != nil {
			return op
		}
		select {
		case <-r.woken:
		case <-time.After(20 * time.Second):
			r.t.Fatal("no Op finished within 20 s")
		}
	}
}

// do carries op out and returns its error.
func (r *rig) do(op *Op) error {
	r.t.Helper()
	r.Queue(op)
	r.Submit()
	if got := r.next(); got != op {
		r.t.Fatal("another Op came back")
	}
	return op.Err
}

func newFile(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// memoryDir is a directory on tmpfs, which has no FALLOC_FL_ZERO_RANGE.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "zvhost-engine-")
	if err != nil {
		t.Logf("no /dev/shm, so not on tmpfs: %v", err)
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func iovecs(data []byte, sizes ...int) (iov []unix.Iovec) {
	for i := 0; len(data) > 0; i++ {
		n := len(data)
		if len(sizes) > 0 {
			n = min(n, sizes[i%len(sizes)])
		}
		iov = append(iov, unix.Iovec{Base: &data[0], Len: uint64(n)})
		data = data[n:]
	}
	return iov
}

func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(data)
	return data
}

func TestReadAndWrite(t *testing.T) {
	for name, dir := range map[string]string{"disk": t.TempDir(), "memory": memoryDir(t)} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t, dir)
			r := newRig(t, 0)
			fd := int(f.Fd())
			for _, sizes := range [][]int{nil, {1}, {512, 1, 4095}, {4096}} { // {1}: more vectors than the kernel takes at once
				data := random(5000)
				w := &Op{Code: Writev, FD: fd, Off: 1000, Len: 5000, Iov: iovecs(data, sizes...), Owner: &sizes}
				keep := append([]unix.Iovec(nil), w.Iov...)
				if err := r.do(w); err != nil || w.N != 5000 {
					t.Fatalf("write: %d bytes, %v", w.N, err)
				}
				for i := range keep {
					if w.Iov[i] != keep[i] {
						t.Fatal("the vectors were changed")
					}
				}
				got := make([]byte, 5000)
				rd := &Op{Code: Readv, FD: fd, Off: 1000, Len: 5000, Iov: iovecs(got, sizes...)}
				if err := r.do(rd); err != nil || rd.N != 5000 || !bytes.Equal(got, data) {
					t.Fatalf("read: %d bytes, %v, equal %v", rd.N, err, bytes.Equal(got, data))
				}
			}
			stable := &Op{Code: Writev, Dsync: true, FD: fd, Off: 0, Len: 100, Iov: iovecs(random(100))}
			if err := r.do(stable); err != nil {
				t.Error(err)
			}
			sync := &Op{Code: Fdatasync, FD: fd}
			if err := r.do(sync); err != nil {
				t.Error(err)
			}
		})
	}
}

// A batch comes back whole, whatever the number of helpers; each Op once, with
// its owner.
func TestBatches(t *testing.T) {
	for _, helpers := range []int{1, 3, 0} {
		f := newFile(t, memoryDir(t))
		r := newRig(t, helpers)
		fd := int(f.Fd())
		const n = 64
		ops := make([]Op, n)
		for round := range 50 {
			for i := range ops {
				data := bytes.Repeat([]byte{byte(round + i)}, 1024)
				ops[i] = Op{Code: Writev, FD: fd, Off: int64(i) * 1024, Len: 1024, Iov: iovecs(data), Owner: i}
				if i%9 == 5 {
					ops[i] = Op{Code: Fdatasync, FD: fd, Owner: i}
				}
				r.Queue(&ops[i])
				if i%10 == 0 {
					r.Submit() // more is staged while some is in flight
				}
			}
			r.Submit()
			seen := make(map[int]bool)
			for range ops {
				op := r.next()
				if i := op.Owner.(int); seen[i] || op != &ops[i] || op.Err != nil {
					t.Fatalf("Op %d: %v, seen %v", i, op.Err, seen[i])
				} else {
					seen[i] = true
				}
			}
			if op := r.Reap(); op != nil {
				t.Fatal("one Op too many")
			}
		}
		if got := r.started; got > max(helpers, DefaultThreads) || helpers > 0 && got > helpers {
			t.Errorf("%d helpers, at most %d were allowed", got, helpers)
		}
	}
}

// A single read or write is done by the worker itself, without a helper and
// without a wake-up.
func TestSingleIsInline(t *testing.T) {
	f := newFile(t, memoryDir(t))
	r := newRig(t, 0)
	for range 10 {
		op := &Op{Code: Writev, FD: int(f.Fd()), Len: 512, Iov: iovecs(make([]byte, 512))}
		r.Queue(op)
		r.Submit()
		if r.Reap() != op {
			t.Fatal("it is not done when Submit returns")
		}
	}
	r.Submit() // nothing is staged
	if r.started != 0 || r.wakes.Load() != 0 {
		t.Errorf("%d helpers, %d wake-ups", r.started, r.wakes.Load())
	}
}

// A helper that blocks, here on a fifo that nobody writes to, does not hold up
// the others or the worker; Close waits for it.
func TestCloseWaits(t *testing.T) {
	dir := t.TempDir()
	f := newFile(t, dir)
	r := &rig{t: t, woken: make(chan struct{}, 1)}
	var mu sync.Mutex
	mu.Lock() // held while the Op's completion is under way
	var closed atomic.Bool
	r.Threads = NewThreads(1, func() {
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

func TestAdvance(t *testing.T) {
	data := random(100)
	for n := range len(data) + 1 {
		iov := Advance(iovecs(data, 3, 7, 1), uint64(n))
		var got []byte
		for _, v := range iov {
			got = append(got, data[len(data)-left(iov):][:v.Len]...)
			iov = iov[1:]
		}
		if !bytes.Equal(got, data[n:]) {
			t.Fatalf("after %d bytes %d are left", n, len(got))
		}
	}
}

func left(iov []unix.Iovec) (n int) {
	for _, v := range iov {
		n += int(v.Len)
	}
	return n
}

// Nothing is allocated for an Op, short transfers included.
func TestNoAllocations(t *testing.T) {
	f := newFile(t, memoryDir(t))
	r := newRig(t, 2)
	data := make([]byte, 3000)
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	ops := make([]Op, 8)
	iov := iovecs(data, 2)
	f.Fd()
	run := func() {
		for i := range ops {
			op := &ops[i]
			op.Code, op.FD, op.Off, op.Len, op.Iov = Readv, int(f.Fd()), 0, 3000, iov
			if i == 3 {
				op.Code = Fdatasync
			}
			r.Queue(op)
		}
		r.Submit()
		for n := 0; n < len(ops); {
			op := r.Reap()
			if op == nil {
				runtime.Gosched()
				continue
			}
			if n++; op.Err != nil {
				t.Error(op.Err)
			}
		}
	}
	// Each helper has a scratch of its own, which it makes when it first needs it.
	for range 300 {
		run()
	}
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations for a batch", n)
	}
}
