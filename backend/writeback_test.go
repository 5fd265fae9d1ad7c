package backend

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
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
	file := fs.under.(image.FileStore)
	fs.refuse(func(call storeCall) error {
		switch call.op {
		case "sync":
			return w.check(file.Syncs)
		case "stable":
			return w.check(file.FD)
		}
		return nil
	})
}

// toldFirst are requests that are told of a loss in the place of a flush.
var toldFirst = map[string]func(*disktest.Client){
	"reset": func(c *disktest.Client) {
		c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
		// It waits for the table. One that comes after that has failed has it tried
		// again, and goes on; what it is told is no promise.
		if err := c.Write(256, disktest.Pattern('n', 512)); err != nil {
			c.WantError(err, disk.ErrIO)
		}
	},
	"session": func(c *disktest.Client) {
		if _, err := disk.Renew(c.Disk); err == nil {
			c.T.Error("renewed")
		}
	},
}

// losing is an image of which zone 2 was flushed, and what zone 3 was given is lost.
func losing(t *testing.T) (path string, fs *faultStore, c *disktest.Client) {
	t.Helper()
	path = imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c = disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('o', 4096)), nil)
	c.WantError(c.Flush(), nil)
	c.WantError(c.Write(384, disktest.Pattern('a', 4096)), nil)
	w := new(writeback)
	w.under(fs)
	w.fail()
	return path, fs, c
}

// wantEmptyNext says that the next daemon finds zone i empty.
func wantEmptyNext(t *testing.T, path string, i int) {
	t.Helper()
	d := openDisk(t, path).(*zoned)
	disktest.NewClient(t, d).WantZone(i, zone.Empty, 0)
	imagetest.CloseDisk(t, d, path)
}

// What was written is lost, and whoever comes first is told: a reset's write of the
// table, or of a session's state. The flush behind it fails all the same, and the
// next daemon goes on from what was committed.
func TestLossIsToldToFlushes(t *testing.T) {
	for name, first := range toldFirst {
		t.Run(name, func(t *testing.T) {
			path, _, c := losing(t)
			first(c)
			c.WantError(c.Flush(), disk.ErrIO)
			c.WantError(c.Flush(), disk.ErrIO)
			if err := c.Disk.Close(); err == nil {
				t.Error("closed cleanly")
			}
			wantEmptyNext(t, path, 3)
		})
	}
}

// The same, but the daemon is killed before any flush. The next one opens the file
// anew, and is told of nothing that somebody has been told of (errseq_sample).
func TestLossOutlivesKill(t *testing.T) {
	for name, first := range toldFirst {
		t.Run(name, func(t *testing.T) {
			path, fs, c := losing(t)
			first(c)
			kill(t, c.Disk.(*zoned), fs)
			wantEmptyNext(t, path, 3)
		})
	}
}

// The same of a flush's own write of the table, behind its sync.
func TestLossOutlivesKillInAFlush(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	w := new(writeback)
	w.under(fs)
	kernel, lost := fs.before, false
	fs.refuse(func(call storeCall) error {
		if call.op == "stable" && !lost {
			lost = true
			w.fail()
		}
		return kernel(call)
	})
	c.WantError(c.Flush(), disk.ErrIO)
	kill(t, d, fs)
	wantEmptyNext(t, path, 2)
}

// The same of a write past the page cache that has to be stable: it is a third
// description that is told.
func TestStableWriteIsToldOfLoss(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	fs := new(faultStore)
	d, err := openZonedOver(path, disk.Options{Direct: true}, fs.over)
	if err != nil {
		t.Fatal(err)
	}
	c, e := disktest.HeldClient(t, d, nil)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	w := new(writeback)
	w.under(fs)
	e.Fault = w.fault
	w.fail()
	r := disktest.NewRequest(disk.OpWrite, 0, disktest.Pattern('c', 4096))
	r.Stable = true
	c.WantError(c.Do(r), disk.ErrIO)
	kill(t, d, fs)
	wantEmptyNext(t, path, 2)
}

// One that fails for itself leaves flushes alone, and is no success for the sync behind it.
func TestStableWriteThatFails(t *testing.T) {
	d, err := Open(imagetest.New(t, disktest.Small), disk.Options{Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, e := disktest.HeldClient(t, d, nil)
	e.Fault = func(op *engine.Op) disktest.OpFault { return disktest.OpFault{Err: unix.ENOSPC} }
	r := disktest.NewRequest(disk.OpWrite, 0, disktest.Pattern('c', 4096))
	r.Stable = true
	c.WantError(c.Do(r), disk.ErrIO)
	e.Fault = nil
	c.WantError(c.Do(r), nil)
	r = disktest.NewRequest(disk.OpFlush, 0, nil)
	c.WantError(c.Do(r), nil)
}

// Both state blocks say that the live table is not to be trusted, though the first
// write of them is told of the loss in its turn. Where a block cannot be written the
// newest one says so, and an error if neither can.
func TestDistrustIsSaidTwice(t *testing.T) {
	for name, c := range map[string]struct {
		ill  []int64 // state blocks that cannot be written
		says int     // blocks that say so
	}{
		"both are good": {nil, 2},
		"block 0":       {[]int64{0}, 1},
		"block 1":       {[]int64{1}, 1},
		"neither":       {[]int64{0, 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			path := imagetest.NewFast(t, disktest.Small)
			d, fs := openFaulty(t, path)
			w := new(writeback)
			w.under(fs)
			kernel := fs.before
			fs.refuse(func(call storeCall) error {
				if call.op == "stable" && slices.Contains(c.ill, (call.off-format.StateOff)/format.BlockBytes) {
					return unix.EIO
				}
				return kernel(call)
			})
			w.fail()
			if err := d.img.Distrust(); (err != nil) != (c.says == 0) {
				t.Errorf("distrust: %v", err)
			}
			imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
				says := 0
				for i := range int64(2) {
					b := make([]byte, format.BlockBytes)
					if _, err := f.ReadAt(b, format.StateOff+i*format.BlockBytes); err != nil {
						t.Fatal(err)
					}
					if s, err := format.DecodeState(b, l.UUID); err != nil {
						t.Error(err)
					} else if s.Where == (format.Place{}) {
						says++
					}
				}
				newest, _, err := format.ReadState(f, l.UUID)
				if err != nil {
					t.Fatal(err)
				}
				if says != c.says || (newest.Where == format.Place{}) != (says > 0) {
					t.Errorf("%d state blocks say so, want %d; the newest is %+v", says, c.says, newest)
				}
			})
			kill(t, d, fs)
		})
	}
}

// fault is how an Op ends with w under its file.
func (w *writeback) fault(op *engine.Op) disktest.OpFault {
	if op.Code == engine.Fdatasync || op.Dsync {
		return disktest.OpFault{Err: w.check(op.FD)}
	}
	return disktest.OpFault{}
}

// Recovery is told that data is lost, by its sync or by a write before or after
// that, and nobody is told again: whoever opens the image next goes on from the last
// commit all the same.
func TestRecoveryThatIsToldOfLoss(t *testing.T) {
	for fatal := 0; ; fatal++ { // this change of the file, and those behind it
		path := imagetest.NewFast(t, disktest.Small)
		d, fs := openFaulty(t, path)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
		c.WantError(c.Flush(), nil)
		c.WantError(c.Write(384, disktest.Pattern('b', 4096)), nil)
		kill(t, d, fs)

		n := 0
		fs = new(faultStore)
		fs.before = func(call storeCall) error {
			if n++; n == fatal+1 && call.op != "wipe" {
				return unix.EIO
			}
			return nil
		}
		d, err := openZonedOver(path, disk.Options{}, fs.over)
		if err == nil {
			kill(t, d, fs)
			if fatal != 4 { // two states, a sync, a block of the table
				t.Errorf("recovery makes %d changes that can fail", fatal)
			}
			return
		}
		if !errors.Is(err, unix.EIO) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("got %v, want one line that tells of it", err)
		}
		d = openDisk(t, path).(*zoned)
		c = disktest.NewClient(t, d)
		if d.img.Resumable {
			t.Errorf("change %d failed, and what the last daemon had begun can be gone on with", fatal)
		}
		c.WantZone(2, zone.Closed, 8)
		c.WantZone(3, zone.Empty, 0)
		imagetest.CloseDisk(t, d, path)
	}
}

// The same of a close: the last sync fails; or the table cannot be written, and
// that was the news.
func TestCloseThatIsToldOfLoss(t *testing.T) {
	for name, c := range map[string]struct {
		fail    func(fs *faultStore, w *writeback)
		trusted bool
	}{
		"last sync": {func(fs *faultStore, w *writeback) {
			syncs := 0
			fs.refuse(func(call storeCall) error {
				if call.op == "sync" {
					if syncs++; syncs == 2 {
						return unix.EIO
					}
				}
				return nil
			})
		}, false},
		"table, after a loss": {func(fs *faultStore, w *writeback) {
			w.under(fs)
			kernel, synced := fs.before, false
			fs.refuse(func(call storeCall) error {
				if call.op == "stable" && !synced {
					synced = true
					w.fail() // behind the sync, before the table
				}
				return kernel(call)
			})
		}, false},
		"table": {func(fs *faultStore, w *writeback) { fs.refuse(failing("stable", unix.ENOSPC)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := imagetest.NewFast(t, disktest.Small)
			d, fs := openFaulty(t, path)
			cl := disktest.NewClient(t, d)
			cl.WantError(cl.Write(256, disktest.Pattern('a', 4096)), nil)
			c.fail(fs, new(writeback))
			if err := d.Close(); err == nil {
				t.Error("closed cleanly")
			}
			d = openDisk(t, path).(*zoned)
			if d.img.Resumable != c.trusted {
				t.Errorf("the live table is trusted: %v", d.img.Resumable)
			}
			imagetest.CloseDisk(t, d, path)
		})
	}
}
