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
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A flush answers for the writes that ended before it, and so it waits for
// those of the same zones that began before it: the write pointer that it
// commits covers them. It does not wait for those that begin later.
func TestFlushWaitsForEarlierWrites(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	other := disktest.NewClient(t, d)
	first := c.AppendEach(e, 256, 1)[0]
	_, err := other.Append(256, disktest.Pattern('b', 4096)) // ended, behind the one in flight
	other.WantError(err, nil)
	fs.seen()
	flush := disktest.NewRequest(disk.OpFlush, 0, nil)
	other.Submit(flush)
	waitWatched(t, d, 2)
	later := c.AppendEach(e, 256, 1)[0]
	other.WantNothingDone("an earlier write is in flight")
	if calls := fs.seen(); len(calls) != 0 {
		t.Errorf("the file was synced before the write had landed: %v", calls)
	}
	e.Release(0, disktest.OpFault{})
	c.WantDone(first)
	other.WantDone(flush)
	other.WantError(flush.Err, nil)
	// Data first, then the table.
	if calls := fs.seen(); len(calls) != 2 || calls[0].op != "sync" || calls[1].op != "stable" {
		t.Errorf("a flush is %v, want a sync and then the table", calls)
	}
	if w := committed(t, path)[2]; w.Written() != 16 {
		t.Errorf("%d sectors are committed, want 16", w.Written())
	}
	c.ReleaseAll(e)
	c.WantDone(later)
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}

// committed is the committed table of the image at path.
func committed(t disktest.TB, path string) (words []zone.Entry) {
	t.Helper()
	imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
		var err error
		if words, _, _, err = format.ReadCommitted(f, l); err != nil {
			t.Fatal(err)
		}
	})
	return words
}

// Write-through: a write, append or zone management request is durable, and its
// zone's entry with it, when it ends.
func TestStable(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	stable := func(op disk.Op, sector uint64, n int) {
		t.Helper()
		r := disktest.NewRequest(op, sector, disktest.Pattern('s', n))
		r.Stable = true
		fs.seen()
		c.WantError(c.Do(r), nil)
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
	slow, e := disktest.HeldClient(t, d, disktest.IsWritev)
	w := slow.AppendEach(e, 256, 1)[0]
	fin := disktest.NewRequest(disk.OpFinish, 256, nil)
	fin.Stable = true
	c.Submit(fin)
	fs.seen()
	e.Release(0, disktest.OpFault{})
	slow.WantDone(w)
	c.WantDone(fin)
	if calls := fs.seen(); len(calls) == 0 || committed(t, path)[2].State() != zone.Full {
		t.Errorf("finish that waited: %v, committed %v", calls, committed(t, path)[2].State())
	}
	stable(disk.OpWrite, 10, 512) // a conventional zone, which has no entry
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}

// The kernel tells of data that it lost only once. No flush succeeds after that,
// and the next daemon goes on from what was committed before.
func TestFailedSyncIsSticky(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	data := disktest.Pattern('a', 4096)
	c.WantError(c.Write(256, data), nil)
	c.WantError(c.Write(384, data), nil)
	c.WantError(c.Flush(), nil)
	c.WantError(c.Write(264, data), nil)
	c.WantError(c.Write(512, data), nil)
	fs.refuse(failing("sync", unix.EIO))
	err := c.Flush()
	c.WantError(err, disk.ErrIO)
	c.WantError(err, unix.EIO)
	fs.refuse(nil)
	err = c.Flush()
	c.WantError(err, disk.ErrIO)
	if err == nil || !strings.Contains(err.Error(), "earlier sync failed") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line that tells of the earlier sync", err)
	}
	stable := disktest.NewRequest(disk.OpWrite, 272, data)
	stable.Stable = true
	c.WantError(c.Do(stable), disk.ErrIO)
	// A reset is a commit of its own, and true; nothing of the lost writes may
	// slip into the table with it.
	c.WantError(c.ZoneOp(disk.OpReset, 384), nil)
	c.WantError(c.Write(384, data[:512]), nil)
	wantReport(t, path, true, zonesOf(d))
	if err := d.Close(); err == nil {
		t.Error("closed cleanly after a sync that failed")
	}
	d2 := openDisk(t, path)
	c = disktest.NewClient(t, d2)
	c.WantZone(2, zone.Closed, 8)
	c.WantZone(3, zone.Empty, 0)
	c.WantZone(4, zone.Empty, 0)
	if got := c.Read(256, 8192); !bytes.Equal(got, append(slices.Clone(data), make([]byte, 4096)...)) {
		t.Error("what was flushed before the failure is not what is there")
	}
	c.WantError(c.Flush(), nil)
	imagetest.CloseDisk(t, d2, path)
}

// A table that cannot be written fails the flush, and only that one: nothing is
// lost by it, the next tries again.
func TestFailedCommitIsTriedAgain(t *testing.T) {
	for name, after := range map[string]bool{"refused": false, "written, but nobody knows": true} {
		t.Run(name, func(t *testing.T) {
			path := imagetest.NewFast(t, disktest.Small)
			d, fs := openFaulty(t, path)
			c := disktest.NewClient(t, d)
			data := disktest.Pattern('a', 4096)
			c.WantError(c.Write(256, data), nil)
			fs.mu.Lock()
			if after {
				fs.after = failing("stable", unix.EIO)
			} else {
				fs.before = failing("stable", unix.EIO)
			}
			fs.mu.Unlock()
			c.WantError(c.Flush(), disk.ErrIO)
			fs.mu.Lock()
			fs.before, fs.after = nil, nil
			fs.mu.Unlock()
			c.WantError(c.Flush(), nil) // with nothing written in between
			if w := committed(t, path)[2]; w.Written() != 8 {
				t.Errorf("%d sectors are committed, want 8", w.Written())
			}
			kill(t, d, fs)
			imagetest.CutPower(t, path)
			d2 := openDisk(t, path)
			c = disktest.NewClient(t, d2)
			c.WantZone(2, zone.Closed, 8)
			if !bytes.Equal(c.Read(256, 4096), data) {
				t.Error("flushed data is gone")
			}
			imagetest.CloseDisk(t, d2, path)
		})
	}
}

// A reset is answered at once, but no write enters the zone before the reset is
// durable and the old data gone. Where that fails, the writes that wait fail,
// nothing else does, and the next write tries again.
func TestFailedResetCommit(t *testing.T) {
	for _, op := range []string{"stable", "wipe"} {
		t.Run(op, func(t *testing.T) {
			path := imagetest.NewFast(t, disktest.Small)
			d, fs := openFaulty(t, path)
			c := disktest.NewClient(t, d)
			data := disktest.Pattern('a', 4096)
			c.WantError(c.Write(256, disktest.Pattern('o', 96*512)), nil)
			c.WantError(c.Flush(), nil)
			fs.refuse(failing(op, unix.EIO))
			c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
			c.WantZone(2, zone.Empty, 0)
			if got := c.Read(256, 8192); !bytes.Equal(got, make([]byte, 8192)) {
				t.Error("the old data shows")
			}
			rs := []*disk.Request{disktest.NewRequest(disk.OpWrite, 256, data), disktest.NewRequest(disk.OpAppend, 256, data), disktest.NewRequest(disk.OpWrite, 264, data)}
			c.Submit(rs...)
			for range rs {
				r := c.Wait()
				c.WantError(r.Err, disk.ErrIO)
				c.WantError(r.Err, unix.EIO)
				if !strings.Contains(r.Err.Error(), "reset could not be completed") {
					t.Errorf("got %v", r.Err)
				}
			}
			c.WantZone(2, zone.Empty, 0)
			c.WantError(c.Write(384, data), nil) // another zone
			c.WantError(c.ZoneOp(disk.OpOpen, 256), nil)
			c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
			if op == "stable" {
				// Not durable: a power cut brings all of the old zone back, or none.
				if w := committed(t, path)[2]; w.Written() != 96 {
					t.Errorf("%d sectors are committed, want the old 96", w.Written())
				}
			}
			fs.refuse(nil)
			c.WantError(c.Write(256, data), nil)
			c.WantError(c.Write(264, data), nil)
			if got := c.Read(256, 96*512); !bytes.Equal(got[:8192], append(slices.Clone(data), data...)) || !bytes.Equal(got[8192:], make([]byte, 88*512-4096)) {
				t.Error("the old data shows behind the new")
			}
			imagetest.CloseDisk(t, d, path)
		})
	}
}

// The order that makes a reset safe: the table says so, durably, and only then
// the data goes, and only then a write enters.
func TestResetOrder(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('o', 96*512)), nil)
	c.WantError(c.Flush(), nil)
	fs.seen()
	reset, w := disktest.NewRequest(disk.OpReset, 256, nil), disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('n', 4096))
	hold := make(chan struct{})
	fs.refuse(func(call storeCall) error {
		<-hold
		if call.op == "wipe" {
			if got := committed(t, path)[2]; got != zone.Pack(2, zone.Empty, 0) {
				return errors.New("the data goes before the reset is durable")
			}
			if got := imagetest.RawZone(t, path, 2); !bytes.Equal(got[:512], disktest.Pattern('o', 512)) {
				return errors.New("a write went in before the old data was gone")
			}
		}
		return nil
	})
	c.Submit(reset, w)
	c.WantDone(reset) // while the committer stands still
	c.WantError(reset.Err, nil)
	c.WantNothingDone("the old data is still there")
	close(hold)
	c.WantDone(w)
	c.WantError(w.Err, nil)
	if calls := fs.seen(); len(calls) != 2 || calls[0].op != "stable" || calls[1].op != "wipe" {
		t.Errorf("a reset is %v, want the table and then a hole", calls)
	}
	imagetest.CloseDisk(t, d, path)
}

// A reset of a zone that has nothing to lose costs nothing.
func TestResetOfNothing(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	fs.seen()
	c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
	c.WantError(c.ZoneOp(disk.OpOpen, 256), nil)
	c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
	c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
	c.WantError(c.Write(256, disktest.Pattern('a', 512)), nil)
	if calls := fs.seen(); len(calls) != 0 {
		t.Errorf("%v", calls)
	}
	// That a zone was finished may be durable, so the committer looks. It is not.
	c.WantError(c.ZoneOp(disk.OpFinish, 384), nil)
	c.WantError(c.ZoneOp(disk.OpReset, 384), nil)
	c.WantError(c.Write(384, disktest.Pattern('a', 512)), nil)
	if calls := fs.seen(); len(calls) != 1 || calls[0].op != "wipe" {
		t.Errorf("%v", calls)
	}
	// Reset, and reset again before the first is through.
	c.Submit(disktest.NewRequest(disk.OpReset, 256, nil), disktest.NewRequest(disk.OpReset, 256, nil), disktest.NewRequest(disk.OpFinish, 256, nil), disktest.NewRequest(disk.OpReset, 256, nil), disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('b', 512)))
	for range 5 {
		c.WantError(c.Wait().Err, nil)
	}
	c.WantZone(2, zone.ImpOpen, 1)
	imagetest.CloseDisk(t, d, path)
}

// A zone that is finished while its reset is still on its way to the disk, and
// then flushed, is full after a power cut: the reset does not overtake. Found by
// TestAgainstModel.
func TestFlushedFinishOutlivesReset(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	c.WantError(c.Write(384, disktest.Pattern('a', 4096)), nil)
	c.WantError(c.Flush(), nil)
	busy, hold := make(chan struct{}, 10), make(chan struct{})
	fs.refuse(func(storeCall) error {
		busy <- struct{}{}
		<-hold
		return nil
	})
	c.WantError(c.ZoneOp(disk.OpReset, 384), nil)
	<-busy // the committer stands still, and finds all of this when it goes on
	reset, finish, flush := disktest.NewRequest(disk.OpReset, 256, nil), disktest.NewRequest(disk.OpFinish, 256, nil), disktest.NewRequest(disk.OpFlush, 0, nil)
	c.Submit(reset, finish, flush)
	c.WantDone(reset, finish)
	close(hold)
	c.WantDone(flush)
	c.WantError(flush.Err, nil)
	c.WantError(c.Write(384, disktest.Pattern('b', 512)), nil) // its reset is through, and so is the other
	kill(t, d, fs)
	imagetest.CutPower(t, path)
	d2 := openDisk(t, path)
	c = disktest.NewClient(t, d2)
	c.WantZone(2, zone.Full, 0)
	imagetest.CloseDisk(t, d2, path)
}

// A read above the write pointer asks nobody, whatever became of the write that its
// request was before.
func TestReadAfterAWriteThatFailed(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.AddFaults("write,once")
	r := disktest.NewRequest(disk.OpWrite, 0, disktest.Pattern('a', 512))
	r.Stable = true
	c.WantError(c.Do(r), disk.ErrIO)
	fs.seen()
	r.Op, r.Sector, r.Stable, r.Err = disk.OpRead, 256, false, nil
	c.WantError(c.Do(r), nil)
	if calls := fs.seen(); len(calls) != 0 {
		t.Errorf("it has led to %v", calls)
	}
	imagetest.CloseDisk(t, d, path)
}
