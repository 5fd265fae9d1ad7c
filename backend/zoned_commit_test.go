package backend

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// A flush answers for the writes that ended before it, and so it waits for
// those of the same zones that began before it: the write pointer that it
// commits covers them. It does not wait for those that begin later.
func TestFlushWaitsForEarlierWrites(t *testing.T) {
	path := newFastImage(t, small)
	d, fs := openFaulty(t, path)
	c, e := heldClient(t, d, isWrite)
	other := newClient(t, d)
	first := c.appends(e, 256, 1)[0]
	_, err := other.append(256, pattern('b', 4096)) // ended, behind the one in flight
	other.want(err, nil)
	fs.seen()
	flush := request(disk.OpFlush, 0, nil)
	other.submit(flush)
	waitWatched(t, d, 2)
	later := c.appends(e, 256, 1)[0]
	other.quiet("an earlier write is in flight")
	if calls := fs.seen(); len(calls) != 0 {
		t.Errorf("the file was synced before the write had landed: %v", calls)
	}
	e.release(0, fault{})
	c.ended(first)
	other.ended(flush)
	other.want(flush.Err, nil)
	// Data first, then the table.
	if calls := fs.seen(); len(calls) != 2 || calls[0].op != "sync" || calls[1].op != "stable" {
		t.Errorf("a flush is %v, want a sync and then the table", calls)
	}
	if w := committed(t, path)[2]; w.Written() != 16 {
		t.Errorf("%d sectors are committed, want 16", w.Written())
	}
	c.settleHeld(e)
	c.ended(later)
	e.hold = nil
	closeDisk(t, d, path)
}

// committed is the committed table of the image at path.
func committed(t tb, path string) (words []zone.Entry) {
	t.Helper()
	edit(t, path, func(f *os.File, l *layout) {
		var err error
		if words, _, _, err = readCommitted(f, l); err != nil {
			t.Fatal(err)
		}
	})
	return words
}

// Write-through: a write, append or zone management request is durable, and its
// zone's entry with it, when it ends.
func TestStable(t *testing.T) {
	path := newFastImage(t, small)
	d, fs := openFaulty(t, path)
	c := newClient(t, d)
	stable := func(op disk.Op, sector uint64, n int) {
		t.Helper()
		r := request(op, sector, pattern('s', n))
		r.Stable = true
		fs.seen()
		c.want(c.do(r), nil)
		calls := fs.seen()
		if !slices.Contains(calls, storeCall{op: "sync"}) {
			t.Errorf("%v that has to be stable: %v", op, calls)
		}
		for i, w := range committed(t, path) {
			if got, want := d.img.Zone(i, w), d.ReportZone(i); got != want {
				t.Errorf("after %v zone %d is committed as %+v, want %+v", op, i, got, want)
			}
		}
	}
	stable(disk.OpWrite, 256, 4096)
	stable(disk.OpAppend, 256, 4096)
	stable(disk.OpOpen, 256, 0)
	stable(disk.OpClose, 256, 0)
	stable(disk.OpFinish, 256, 0)
	stable(disk.OpWrite, 384, 96*512)
	stable(disk.OpReset, 256, 0)
	stable(disk.OpAppend, 256, 512)
	stable(disk.OpResetAll, 0, 0)
	// One that waited for its turn is no exception.
	slow, e := heldClient(t, d, isWrite)
	w := slow.appends(e, 256, 1)[0]
	fin := request(disk.OpFinish, 256, nil)
	fin.Stable = true
	c.submit(fin)
	fs.seen()
	e.release(0, fault{})
	slow.ended(w)
	c.ended(fin)
	if calls := fs.seen(); len(calls) == 0 || committed(t, path)[2].State() != zone.Full {
		t.Errorf("finish that waited: %v, committed %v", calls, committed(t, path)[2].State())
	}
	stable(disk.OpWrite, 10, 512) // a conventional zone, which has no entry
	e.hold = nil
	closeDisk(t, d, path)
}

// The kernel tells of data that it lost only once. No flush succeeds after that,
// and the next daemon goes on from what was committed before.
func TestFailedSyncIsSticky(t *testing.T) {
	path := newFastImage(t, small)
	d, fs := openFaulty(t, path)
	c := newClient(t, d)
	data := pattern('a', 4096)
	c.want(c.write(256, data), nil)
	c.want(c.write(384, data), nil)
	c.want(c.flush(), nil)
	c.want(c.write(264, data), nil)
	c.want(c.write(512, data), nil)
	fs.refuse(failing("sync", unix.EIO))
	err := c.flush()
	c.want(err, disk.ErrIO)
	c.want(err, unix.EIO)
	fs.refuse(nil)
	err = c.flush()
	c.want(err, disk.ErrIO)
	if err == nil || !strings.Contains(err.Error(), "earlier sync failed") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line that tells of the earlier sync", err)
	}
	stable := request(disk.OpWrite, 272, data)
	stable.Stable = true
	c.want(c.do(stable), disk.ErrIO)
	// A reset is a commit of its own, and true; nothing of the lost writes may
	// slip into the table with it.
	c.want(c.zoneOp(disk.OpReset, 384), nil)
	c.want(c.write(384, data[:512]), nil)
	wantReport(t, path, true, zonesOf(d))
	if err := d.Close(); err == nil {
		t.Error("closed cleanly after a sync that failed")
	}
	d2 := openDisk(t, path)
	c = newClient(t, d2)
	c.wantZone(2, zone.Closed, 8)
	c.wantZone(3, zone.Empty, 0)
	c.wantZone(4, zone.Empty, 0)
	if got := c.read(256, 8192); !bytes.Equal(got, append(slices.Clone(data), make([]byte, 4096)...)) {
		t.Error("what was flushed before the failure is not what is there")
	}
	c.want(c.flush(), nil)
	closeDisk(t, d2, path)
}

// A table that cannot be written fails the flush, and only that one: nothing is
// lost by it, the next tries again.
func TestFailedCommitIsTriedAgain(t *testing.T) {
	for name, after := range map[string]bool{"refused": false, "written, but nobody knows": true} {
		t.Run(name, func(t *testing.T) {
			path := newFastImage(t, small)
			d, fs := openFaulty(t, path)
			c := newClient(t, d)
			data := pattern('a', 4096)
			c.want(c.write(256, data), nil)
			fs.mu.Lock()
			if after {
				fs.after = failing("stable", unix.EIO)
			} else {
				fs.before = failing("stable", unix.EIO)
			}
			fs.mu.Unlock()
			c.want(c.flush(), disk.ErrIO)
			fs.mu.Lock()
			fs.before, fs.after = nil, nil
			fs.mu.Unlock()
			c.want(c.flush(), nil) // with nothing written in between
			if w := committed(t, path)[2]; w.Written() != 8 {
				t.Errorf("%d sectors are committed, want 8", w.Written())
			}
			kill(t, d, fs)
			powerCut(t, path)
			d2 := openDisk(t, path)
			c = newClient(t, d2)
			c.wantZone(2, zone.Closed, 8)
			if !bytes.Equal(c.read(256, 4096), data) {
				t.Error("flushed data is gone")
			}
			closeDisk(t, d2, path)
		})
	}
}

// A reset is answered at once, but no write enters the zone before the reset is
// durable and the old data gone. Where that fails, the writes that wait fail,
// nothing else does, and the next write tries again.
func TestFailedResetCommit(t *testing.T) {
	for _, op := range []string{"stable", "wipe"} {
		t.Run(op, func(t *testing.T) {
			path := newFastImage(t, small)
			d, fs := openFaulty(t, path)
			c := newClient(t, d)
			data := pattern('a', 4096)
			c.want(c.write(256, pattern('o', 96*512)), nil)
			c.want(c.flush(), nil)
			fs.refuse(failing(op, unix.EIO))
			c.want(c.zoneOp(disk.OpReset, 256), nil)
			c.wantZone(2, zone.Empty, 0)
			if got := c.read(256, 8192); !bytes.Equal(got, make([]byte, 8192)) {
				t.Error("the old data shows")
			}
			rs := []*disk.Request{request(disk.OpWrite, 256, data), request(disk.OpAppend, 256, data), request(disk.OpWrite, 264, data)}
			c.submit(rs...)
			for range rs {
				r := c.wait()
				c.want(r.Err, disk.ErrIO)
				c.want(r.Err, unix.EIO)
				if !strings.Contains(r.Err.Error(), "reset could not be completed") {
					t.Errorf("got %v", r.Err)
				}
			}
			c.wantZone(2, zone.Empty, 0)
			c.want(c.write(384, data), nil) // another zone
			c.want(c.zoneOp(disk.OpOpen, 256), nil)
			c.want(c.zoneOp(disk.OpReset, 256), nil)
			if op == "stable" {
				// Not durable: a power cut brings all of the old zone back, or none.
				if w := committed(t, path)[2]; w.Written() != 96 {
					t.Errorf("%d sectors are committed, want the old 96", w.Written())
				}
			}
			fs.refuse(nil)
			c.want(c.write(256, data), nil)
			c.want(c.write(264, data), nil)
			if got := c.read(256, 96*512); !bytes.Equal(got[:8192], append(slices.Clone(data), data...)) || !bytes.Equal(got[8192:], make([]byte, 88*512-4096)) {
				t.Error("the old data shows behind the new")
			}
			closeDisk(t, d, path)
		})
	}
}

// The order that makes a reset safe: the table says so, durably, and only then
// the data goes, and only then a write enters.
func TestResetOrder(t *testing.T) {
	path := newFastImage(t, small)
	d, fs := openFaulty(t, path)
	c := newClient(t, d)
	c.want(c.write(256, pattern('o', 96*512)), nil)
	c.want(c.flush(), nil)
	fs.seen()
	reset, w := request(disk.OpReset, 256, nil), request(disk.OpWrite, 256, pattern('n', 4096))
	hold := make(chan struct{})
	fs.refuse(func(call storeCall) error {
		<-hold
		if call.op == "wipe" {
			if got := committed(t, path)[2]; got != zone.Pack(2, zone.Empty, 0) {
				return errors.New("the data goes before the reset is durable")
			}
			if got := rawZone(t, path, 2); !bytes.Equal(got[:512], pattern('o', 512)) {
				return errors.New("a write went in before the old data was gone")
			}
		}
		return nil
	})
	c.submit(reset, w)
	c.ended(reset) // while the committer stands still
	c.want(reset.Err, nil)
	c.quiet("the old data is still there")
	close(hold)
	c.ended(w)
	c.want(w.Err, nil)
	if calls := fs.seen(); len(calls) != 2 || calls[0].op != "stable" || calls[1].op != "wipe" {
		t.Errorf("a reset is %v, want the table and then a hole", calls)
	}
	closeDisk(t, d, path)
}

// A reset of a zone that has nothing to lose costs nothing.
func TestResetOfNothing(t *testing.T) {
	path := newFastImage(t, small)
	d, fs := openFaulty(t, path)
	c := newClient(t, d)
	fs.seen()
	c.want(c.zoneOp(disk.OpReset, 256), nil)
	c.want(c.zoneOp(disk.OpOpen, 256), nil)
	c.want(c.zoneOp(disk.OpReset, 256), nil)
	c.want(c.zoneOp(disk.OpResetAll, 0), nil)
	c.want(c.write(256, pattern('a', 512)), nil)
	if calls := fs.seen(); len(calls) != 0 {
		t.Errorf("%v", calls)
	}
	// That a zone was finished may be durable, so the committer looks. It is not.
	c.want(c.zoneOp(disk.OpFinish, 384), nil)
	c.want(c.zoneOp(disk.OpReset, 384), nil)
	c.want(c.write(384, pattern('a', 512)), nil)
	if calls := fs.seen(); len(calls) != 1 || calls[0].op != "wipe" {
		t.Errorf("%v", calls)
	}
	// Reset, and reset again before the first is through.
	c.submit(request(disk.OpReset, 256, nil), request(disk.OpReset, 256, nil), request(disk.OpFinish, 256, nil), request(disk.OpReset, 256, nil), request(disk.OpWrite, 256, pattern('b', 512)))
	for range 5 {
		c.want(c.wait().Err, nil)
	}
	c.wantZone(2, zone.ImpOpen, 1)
	closeDisk(t, d, path)
}

// A zone that is finished while its reset is still on its way to the disk, and
// then flushed, is full after a power cut: the reset does not overtake. Found by
// TestAgainstModel.
func TestFlushedFinishOutlivesReset(t *testing.T) {
	path := newFastImage(t, small)
	d, fs := openFaulty(t, path)
	c := newClient(t, d)
	c.want(c.write(256, pattern('a', 4096)), nil)
	c.want(c.write(384, pattern('a', 4096)), nil)
	c.want(c.flush(), nil)
	busy, hold := make(chan struct{}, 10), make(chan struct{})
	fs.refuse(func(storeCall) error {
		busy <- struct{}{}
		<-hold
		return nil
	})
	c.want(c.zoneOp(disk.OpReset, 384), nil)
	<-busy // the committer stands still, and finds all of this when it goes on
	reset, finish, flush := request(disk.OpReset, 256, nil), request(disk.OpFinish, 256, nil), request(disk.OpFlush, 0, nil)
	c.submit(reset, finish, flush)
	c.ended(reset, finish)
	close(hold)
	c.ended(flush)
	c.want(flush.Err, nil)
	c.want(c.write(384, pattern('b', 512)), nil) // its reset is through, and so is the other
	kill(t, d, fs)
	powerCut(t, path)
	d2 := openDisk(t, path)
	c = newClient(t, d2)
	c.wantZone(2, zone.Full, 0)
	closeDisk(t, d2, path)
}

// A read above the write pointer asks nobody, whatever became of the write that its
// request was before.
func TestReadAfterAWriteThatFailed(t *testing.T) {
	path := newFastImage(t, small)
	d, fs := openFaulty(t, path)
	c := newClient(t, d)
	c.fault("write,once")
	r := request(disk.OpWrite, 0, pattern('a', 512))
	r.Stable = true
	c.want(c.do(r), disk.ErrIO)
	fs.seen()
	r.Op, r.Sector, r.Stable, r.Err = disk.OpRead, 256, false, nil
	c.want(c.do(r), nil)
	if calls := fs.seen(); len(calls) != 0 {
		t.Errorf("it has led to %v", calls)
	}
	closeDisk(t, d, path)
}
