package engine

import (
	"testing"
)

// A batch is one system call, however large, and one more to sleep for what has not
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
