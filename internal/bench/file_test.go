package bench

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/zvhost/zvhost/internal/uring"
)

func fileConfig(path string, rw RW) Config {
	c := config("", rw)
	c.File = path
	return c
}

// A file itself: reads and writes of every kind, and every block is written.
func TestFile(t *testing.T) {
	const size = 1<<20 + 100 // what is no whole block is left alone
	path := filepath.Join(t.TempDir(), "disk")
	check(t, os.WriteFile(path, make([]byte, size), 0o600))
	for _, rw := range []RW{Read, Write, RandRead, RandWrite} {
		for _, poll := range []bool{false, true} {
			c := fileConfig(path, rw)
			c.Poll, c.Depth, c.Queues = poll, 5, 2
			r, err := Run(context.Background(), c, nil)
			check(t, err)
			r.ServerPID, r.ServerCPUSeconds = os.Getpid(), 1 // it has none
			checkResult(t, &c, &r)
			if !r.Bare || r.Resets != 0 || r.Kicks == 0 {
				t.Errorf("%+v", r)
			}
		}
	}
	c := fileConfig(path, Write)
	for r := (Result{}); r.Requests <= size/4096; c.Runtime *= 2 { // a busy machine gets to little
		var err error
		r, err = Run(context.Background(), c, nil)
		check(t, err)
	}
	got, err := os.ReadFile(path)
	check(t, err)
	for at := 0; at+4096 <= size; at += 4096 {
		if bytes.Equal(got[at:at+4096], make([]byte, 4096)) {
			t.Fatalf("nothing was written at byte %d", at)
		}
	}
	if len(got) != size || !bytes.Equal(got[1<<20:], make([]byte, 100)) {
		t.Errorf("%d bytes, the last of them %x", len(got), got[1<<20:])
	}
}

func TestFileRefuses(t *testing.T) {
	dir := t.TempDir()
	refused(t, fileConfig(filepath.Join(dir, "none"), Read), "no such file")
	refused(t, fileConfig(dir, Read), "neither a file nor a block device")
	small := filepath.Join(dir, "small")
	check(t, os.WriteFile(small, make([]byte, 4095), 0o600))
	refused(t, fileConfig(small, Read), "has 4095 bytes, less than one request of 4096")

	// What ends before its time is told, and nothing is left in flight.
	cut := filepath.Join(dir, "cut")
	check(t, os.WriteFile(cut, make([]byte, 1<<20), 0o600))
	f, err := os.Open(cut)
	check(t, err)
	c := fileConfig(cut, RandRead)
	l := &fileLoop{c: &c, fd: int32(f.Fd()), spread: &spread{bytes: 4096, blockSectors: 8, extents: []extent{{}}, blocks: 256, random: true, state: 1}}
	check(t, os.Truncate(cut, 0))
	if err := l.run(time.Now(), int64(time.Hour), new(halt)); err == nil || l.inFlight != 0 {
		t.Errorf("%v, %d in flight", err, l.inFlight)
	}
	check(t, f.Close())
}

func TestFileAllocates(t *testing.T) {
	runtime.LockOSThread() // the ring belongs to its thread
	defer runtime.UnlockOSThread()
	path := filepath.Join(t.TempDir(), "disk")
	check(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	f, err := os.Open(path)
	check(t, err)
	c := fileConfig(path, RandRead)
	l := &fileLoop{c: &c, fd: int32(f.Fd()), spread: &spread{bytes: 4096, blockSectors: 8, extents: []extent{{}}, blocks: 256, random: true, state: 1}}
	l.ring, err = uring.New(8)
	check(t, err)
	l.buffers, l.issued = make([]byte, c.Depth*4096), make([]int64, c.Depth)
	for i := range c.Depth {
		l.free = append(l.free, uint64(i))
	}
	round := func() {
		l.stage(0)
		if err := l.reap(); err != nil {
			t.Fatal(err)
		}
		if err := l.take(1); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations in a round", n)
	}
	check(t, l.drain(time.Now(), new(halt)))
	check(t, l.ring.Close())
	check(t, f.Close())
}
