package engine

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A batch is one system call, however many requests, and one more to sleep for what has not
// ended by then; a batch of files in memory enters no ring at all.
func TestUringCalls(t *testing.T) {
	r := newRig(t, KindUring.Open)
	u := r.Engine.(*Uring)
	for _, c := range []struct {
		dir         string
		least, most uint64
	}{{t.TempDir(), 1, 1}, {memoryDir(t), 0, 0}} {
		f := newFile(t, c.dir)
		data := random(64 * 512)
		if _, err := f.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
		fd := int(f.Fd())
		ops := make([]Op, 64)
		before := u.ring.Calls()
		for i := range ops {
			ops[i] = Op{Code: Readv, FD: fd, Off: int64(i) * 512, Len: 512, Iov: iovecs(data[i*512:][:512])}
			r.Queue(&ops[i])
		}
		r.Submit()
		if calls := u.ring.Calls() - before; calls < c.least || calls > c.most {
			t.Errorf("%s: %d system calls to submit 64 reads, want %d to %d", c.dir, calls, c.least, c.most)
		}
		for range ops { // each may need a sleep of its own, or come with another
			if op := r.next(); op.Err != nil {
				t.Error(op.Err)
			}
		}
		if r.Reap() != nil {
			t.Error("one too many")
		}
		// What stands in the ring already is reaped without entering the kernel.
		ops[0].Code = Readv
		r.Queue(&ops[0])
		r.Submit()
		for u.done.head == nil {
			u.collect()
			if u.done.head == nil {
				u.syscall(0)
			}
		}
		before = u.ring.Calls()
		if r.Reap() == nil || u.ring.Calls() != before {
			t.Errorf("%s: %d system calls to reap what is there", c.dir, u.ring.Calls()-before)
		}
	}
}

// What is done in place are files in memory only. A device's node lies on a file
// system in memory, too, and I/O on it can take as long as it likes.
func TestMemoryFS(t *testing.T) {
	if !memoryFS(int(newFile(t, memoryDir(t)).Fd())) {
		t.Error("a file on tmpfs is none in memory")
	}
	if memoryFS(int(newFile(t, t.TempDir()).Fd())) {
		t.Error("a file on a disk is one in memory")
	}
	// Any node on a tmpfs will do; a fifo can be made by anybody.
	fifo := filepath.Join(memoryDir(t), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if memoryFS(int(f.Fd())) {
		t.Error("a node on tmpfs that is no file is one in memory")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
