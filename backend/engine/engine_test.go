package engine

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A rig is an engine with the wake-ups that it made.
type rig struct {
	Engine
	t     *testing.T
	fd    int // an eventfd, written by wake
	woken [1]unix.PollFd
	drain [8]byte
	wakes atomic.Int64
}

// newRig makes an engine with open, on a thread of its own: it belongs to that.
func newRig(t *testing.T, open func(wake func()) (Engine, error)) *rig {
	t.Helper()
	runtime.LockOSThread()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, fd: fd, woken: [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}}
	if r.Engine, err = open(r.wake); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), unix.Close(fd)); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
	return r
}

// newThreads makes a rig of threads.
func newThreads(t *testing.T, helpers int) (*rig, *Threads) {
	t.Helper()
	r := newRig(t, func(wake func()) (Engine, error) { return NewThreads(helpers, wake), nil })
	return r, r.Engine.(*Threads)
}

// onEach runs a test on each kind of engine. The kernels that the tests run on
// have them all.
func onEach(t *testing.T, test func(t *testing.T, r *rig)) {
	for _, kind := range Kinds {
		t.Run(string(kind), func(t *testing.T) { test(t, newRig(t, kind.Open)) })
	}
}

var one = [8]byte{1}

func (r *rig) wake() {
	r.wakes.Add(1)
	_, _ = unix.Write(r.fd, one[:])
}

// next returns the next Op that finishes, sleeping as a worker does.
func (r *rig) next() *Op {
	r.t.Helper()
	for {
		if op := r.Reap(); op != nil {
			return op
		}
		if r.Wait(r.woken[:]); r.woken[0].Revents != 0 {
			_, _ = unix.Read(int(r.woken[0].Fd), r.drain[:])
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

func TestReadAndWrite(t *testing.T) { onEach(t, testReadAndWrite) }

func testReadAndWrite(t *testing.T, r *rig) {
	for name, dir := range map[string]string{"disk": t.TempDir(), "memory": memoryDir(t)} {
		t.Log(name) // no t.Run: the engine belongs to this goroutine
		f := newFile(t, dir)
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
	}
}

// A batch comes back whole, also one that is more than the kernel takes at once;
// each Op once, with its owner.
func TestBatches(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		for _, dir := range []string{memoryDir(t), t.TempDir()} {
			testBatches(r, newFile(t, dir), 64, 50)
			testBatches(r, newFile(t, dir), 5*depth/2, 3)
		}
	})
}

func testBatches(r *rig, f *os.File, n, rounds int) {
	fd := int(f.Fd())
	ops := make([]Op, n)
	for round := range rounds {
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
				r.t.Fatalf("Op %d: %v, seen %v", i, op.Err, seen[i])
			} else {
				seen[i] = true
			}
		}
		if op := r.Reap(); op != nil {
			r.t.Fatal("one Op too many")
		}
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range ops {
		if want := byte(rounds - 1 + i); i%9 != 5 && got[i*1024] != want {
			r.t.Fatalf("block %d has %d, want %d", i, got[i*1024], want)
		}
	}
}

// Nothing is allocated for an Op, short transfers included.
func TestNoAllocations(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		testNoAllocations(t, r, memoryDir(t))
		testNoAllocations(t, r, t.TempDir())
	})
}

func testNoAllocations(t *testing.T, r *rig, dir string) {
	f := newFile(t, dir)
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
			op := r.next()
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
