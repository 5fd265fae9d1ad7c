package backend

import (
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// A writeback is how the kernel writes a file's data back, and fails. Each open
// file description is told of that once, by the fdatasync or RWF_DSYNC write on it
// that comes first (errseq_check_and_advance, lib/errseq.c).
type writeback struct {
	mu       sync.Mutex
	failures int
	told     map[int]int // of so many of them, by descriptor
}

// fail loses data.
func (w *writeback) fail() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures++
}

// check is the outcome of a sync, or of a write that is one, on the description
// of fd.
func (w *writeback) check(fd int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told[fd] == w.failures {
		return nil
	}
	if w.told == nil {
		w.told = map[int]int{}
	}
	w.told[fd] = w.failures
	return unix.EIO
}

// under has w under an image's file.
func (w *writeback) under(fs *faultStore) {
	file := fs.under.(fileStore)
	fs.refuse(func(call storeCall) error {
		switch call.op {
		case "sync":
			return w.check(file.syncs)
		case "stable":
			return w.check(file.fd)
		}
		return nil
	})
}

// What was written is lost, and whoever comes first is told: a reset's write of the
// table, or of a session's state. The flush behind it fails all the same, and the
// next daemon goes on from what was committed.
func TestLossIsToldToFlushes(t *testing.T) {
	for name, first := range map[string]func(*client){
		"reset": func(c *client) {
			c.want(c.zoneOp(OpReset, 256), nil)
			c.want(c.write(256, pattern('n', 512)), ErrIO) // it waits for the table
		},
		"session": func(c *client) {
			if _, err := Renew(c.disk); err == nil {
				c.t.Error("renewed")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := newFastImage(t, small)
			d, fs := openFaulty(t, path)
			c := newClient(t, d)
			c.want(c.write(256, pattern('o', 4096)), nil)
			c.want(c.flush(), nil)
			c.want(c.write(384, pattern('a', 4096)), nil)
			w := new(writeback)
			w.under(fs)
			w.fail()
			first(c)
			c.want(c.flush(), ErrIO)
			c.want(c.flush(), ErrIO)
			if err := d.Close(); err == nil {
				t.Error("closed cleanly")
			}
			d = openDisk(t, path).(*zoned)
			c = newClient(t, d)
			c.wantZone(3, Empty, 0)
			closeDisk(t, d, path)
		})
	}
}

// An image is synced by a description of its own, of the file that it is, also
// when the path is another file's by now; one that is only read has none.
func TestSyncsAreTheFiles(t *testing.T) {
	for _, o := range []Options{{}, {Direct: true}} {
		path := newImage(t, small)
		img, err := openImage(path, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, path+".moved"); err != nil {
			t.Fatal(err)
		}
		again, err := openSyncs(img.f)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*os.File{img.syncs, again} {
			is, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if was, err := img.f.Stat(); err != nil || !os.SameFile(is, was) {
				t.Errorf("not the image: %v", err)
			}
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
		// Its end is not the lock's.
		if _, err := openImage(path+".moved", Options{}); !IsInUse(err) {
			t.Errorf("opened twice: %v", err)
		}
		if err := img.close(); err != nil {
			t.Error(err)
		}
	}
	img, err := openImage(newImage(t, small), Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if img.syncs != nil {
		t.Error("an image that is only read is open for more")
	}
	if err := img.close(); err != nil {
		t.Error(err)
	}
}

// fault is how an Op ends with w under its file.
func (w *writeback) fault(op *engine.Op) fault {
	if op.Code == engine.Fdatasync || op.Dsync {
		return fault{err: w.check(op.FD)}
	}
	return fault{}
}
