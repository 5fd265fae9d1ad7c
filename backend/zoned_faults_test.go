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
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// appends submits n appends of 4 KiB to the zone that starts at sector, filled
// with 'a', 'b' and so on, all in flight at once, and returns them.
func (c *client) appends(e *heldEngine, sector uint64, n int) []*disk.Request {
	c.t.Helper()
	var rs []*disk.Request
	for i := range n {
		rs = append(rs, request(disk.OpAppend, sector, pattern(byte('a'+i), 4096)))
	}
	held := len(e.held)
	c.submit(rs...)
	eventually(c.t, func() bool { // at once, unless the zone's reset is still on its way
		c.quiet("it is held")
		return len(e.held) == held+n
	})
	return rs
}

// ended waits for one request for each of want, in that order.
func (c *client) ended(want ...*disk.Request) {
	c.t.Helper()
	for i, w := range want {
		if got := c.wait(); got != w {
			c.t.Fatalf("ending %d is a %v at sector %d", i, got.Op, got.Sector)
		}
	}
}

// quiet says that nothing has ended.
func (c *client) quiet(why string) {
	c.t.Helper()
	if r := c.lane.Done(); r != nil {
		c.t.Fatalf("%v ended with %v: %s", r.Op, r.Err, why)
	}
}

// Appends of one zone are in flight together and end in any order; each landed
// where it says, and the write pointer is right after each.
func TestAppendsOutOfOrder(t *testing.T) {
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c, e := heldClient(t, d, isWrite)
	rs := c.appends(e, 256, 4)
	c.wantZone(2, zone.Empty, 0) // nothing has landed: nothing is told
	for n, i := range []int{2, 0, 3, 1} {
		// What is held shifts down with each release.
		at := slices.IndexFunc(e.held, func(op *engine.Op) bool { return op.Owner == rs[i] })
		e.release(at, fault{})
		c.ended(rs[i])
		c.want(rs[i].Err, nil)
		if want := 256 + 8*uint64(i); rs[i].AppendSector != want {
			t.Errorf("append %d landed at %d, want %d", i, rs[i].AppendSector, want)
		}
		c.wantZone(2, zone.ImpOpen, []uint64{24, 24, 32, 32}[n])
	}
	e.hold = nil
	if got := c.read(256, 4*4096); !bytes.Equal(got, slices.Concat(pattern('a', 4096), pattern('b', 4096), pattern('c', 4096), pattern('d', 4096))) {
		t.Error("the data is not what was appended")
	}
	closeDisk(t, d, path)
}

// Of three writes in flight in one zone some fail, whole or half way, in all
// combinations and all orders of ending. The write pointer ends behind the last
// that landed, what failed reads as zeroes and not as half a write, the zone
// takes the next write there, and other zones are as they were.
func TestSomeWritesFail(t *testing.T) {
	faults := []fault{{}, {err: unix.EIO}, {n: 2048, err: unix.ENOSPC}, {n: 4096, err: unix.EIO}, {n: 1000, err: unix.EFAULT}}
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c, e := heldClient(t, d, isWrite)
	c.want(c.writeNow(e, 640, pattern('n', 4096)), nil)
	cases := 0
	for _, first := range []uint64{0, 8} { // in an empty zone, and behind a write
		for combo := range len(faults) * len(faults) * len(faults) {
			f := []fault{faults[combo%5], faults[combo/5%5], faults[combo/25]}
			order := orders[combo%len(orders)]
			c.want(c.zoneOp(disk.OpReset, 256), nil)
			if first != 0 {
				c.want(c.writeNow(e, 256, pattern('z', 4096)), nil)
			}
			rs := c.appends(e, 256, 3)
			for _, i := range order {
				at := slices.IndexFunc(e.held, func(op *engine.Op) bool { return op.Owner == rs[i] })
				e.release(at, f[i])
				c.ended(rs[i])
			}
			want := make([]byte, 5*4096)
			copy(want, pattern('z', int(first)*512))
			wp := first
			for i, r := range rs {
				at := first + 8*uint64(i)
				if f[i].err != nil {
					c.want(r.Err, disk.ErrIO)
					c.want(r.Err, f[i].err)
					continue
				}
				c.want(r.Err, nil)
				wp = at + 8
				copy(want[at*512:], pattern(byte('a'+i), 4096))
			}
			state := zone.ImpOpen
			if wp == 0 {
				state = zone.Empty
			}
			c.wantZone(2, state, wp)
			c.want(c.writeNow(e, 256+wp, pattern('y', 512)), nil)
			copy(want[wp*512:], pattern('y', 512))
			if got := c.read(256, len(want)); !bytes.Equal(got, want) {
				t.Fatalf("faults %v in order %v: other data than was written", f, order)
			}
			cases++
		}
	}
	c.wantZone(5, zone.ImpOpen, 8)
	e.hold = nil
	if !bytes.Equal(c.read(640, 4096), pattern('n', 4096)) {
		t.Error("another zone changed")
	}
	t.Logf("%d cases", cases)
	closeDisk(t, d, path)
}

// A failed write gives back what it took: the open and active resources, and
// the end of the zone.
func TestFailedWriteGivesBack(t *testing.T) {
	g := small
	g.MaxOpen, g.MaxActive = 1, 1
	path := newFastImage(t, g)
	d := openDisk(t, path)
	c, e := heldClient(t, d, isWrite)
	r := request(disk.OpWrite, 256, pattern('a', 96*512)) // would fill the zone
	c.submit(r)
	c.want(c.write(384, pattern('b', 512)), zone.ErrActiveLimit)
	more := request(disk.OpAppend, 256, pattern('a', 512))
	c.want(c.do(more), zone.ErrInvalid) // full, as far as one can tell now
	e.release(0, fault{n: 512, err: unix.ENOSPC})
	c.ended(r)
	c.want(r.Err, unix.ENOSPC)
	c.wantZone(2, zone.Empty, 0)
	c.want(c.writeNow(e, 384, pattern('b', 512)), nil)
	c.want(c.zoneOp(disk.OpReset, 384), nil)

	// An explicitly open zone stays open.
	c.want(c.zoneOp(disk.OpOpen, 256), nil)
	c.submit(r)
	e.release(0, fault{err: unix.EIO})
	c.ended(r)
	c.wantZone(2, zone.ExpOpen, 0)
	// A close that came while its only write was in flight, which then fails:
	// nothing was ever written, so it is empty.
	closing := request(disk.OpClose, 256, nil)
	c.submit(r, closing)
	c.quiet("nobody knows yet what is closed there")
	e.release(0, fault{err: unix.EIO})
	c.ended(r, closing)
	c.want(closing.Err, nil)
	c.wantZone(2, zone.Empty, 0)
	c.want(c.writeNow(e, 384, pattern('b', 512)), nil)
	e.hold = nil
	closeDisk(t, d, path)
}

// What is left of a failed write is zeroed in place where the file system makes
// no hole, for whatever reason.
func TestFailedWriteWithoutHoles(t *testing.T) {
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c, e := heldClient(t, d, isWrite)
	for _, scrub := range []fault{{err: unix.EOPNOTSUPP}, {err: unix.EIO}} {
		e.fault = func(op *engine.Op) fault {
			if op.Code == engine.PunchHole {
				return scrub
			}
			return fault{}
		}
		rs := c.appends(e, 256, 2)
		e.release(0, fault{n: 1024, err: unix.EIO})
		e.release(0, fault{})
		c.ended(rs[1], rs[0]) // the failed one has more to do
		c.want(rs[0].Err, disk.ErrIO)
		c.want(rs[1].Err, nil)
		c.wantZone(2, zone.ImpOpen, 16)
		if got := c.read(256, 8192); !bytes.Equal(got, append(make([]byte, 4096), pattern('b', 4096)...)) {
			t.Error("half a write that failed can be read")
		}
		c.want(c.zoneOp(disk.OpReset, 256), nil)
	}
	closeDisk(t, d, path)
}

// Seed bug 1: one lock over all zones was held for the whole I/O. With a write
// in flight, others go on: in the same zone, in other zones, on other lanes.
func TestSeedWritesRunInParallel(t *testing.T) {
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c, e := heldClient(t, d, isWrite)
	other := newClient(t, d)
	held := request(disk.OpWrite, 256, pattern('a', 4096))
	c.submit(held)
	at, err := other.append(256, pattern('b', 4096))
	other.want(err, nil)
	if at != 264 {
		t.Errorf("an append behind a write in flight landed at %d", at)
	}
	other.want(other.write(384, pattern('c', 4096)), nil)
	other.want(other.zoneOp(disk.OpFinish, 384), nil)
	other.want(other.zoneOp(disk.OpOpen, 256), nil) // nothing that moves the pointer
	other.want(other.zoneOp(disk.OpClose, 256), nil)
	other.read(264, 4096)
	c.quiet("its data was never written")
	c.settleHeld(e)
	c.ended(held)
	c.want(held.Err, nil)
	c.wantZone(2, zone.Closed, 16)
	e.hold = nil
	closeDisk(t, d, path)
}

// Seed bug 2: zone management did not care for writes in flight. A reset or
// finish waits for those of its zone, and those that come after it wait for it.
func TestSeedManagementWaitsForWrites(t *testing.T) {
	for _, op := range []disk.Op{disk.OpReset, disk.OpFinish, disk.OpResetAll} {
		t.Run(op.String(), func(t *testing.T) {
			path := newFastImage(t, small)
			d := openDisk(t, path)
			c, e := heldClient(t, d, isWrite)
			other := newClient(t, d)
			rs := c.appends(e, 256, 3)
			// One has landed, so that the zone is not empty for a reset of all.
			at, err := other.append(256, pattern('d', 4096))
			other.want(err, nil)
			if at != 256+24 {
				t.Errorf("landed at %d", at)
			}
			m := request(op, 256, nil)
			after := request(disk.OpAppend, 256, pattern('z', 4096))
			opened := request(disk.OpOpen, 256, nil)
			other.submit(m, after, opened)
			other.quiet("writes of its zone are in flight")
			other2 := newClient(t, d)
			other2.want(other2.write(384, pattern('o', 512)), nil) // another zone is not held up
			e.release(1, fault{})
			c.ended(rs[1])
			other.quiet("writes of its zone are in flight")
			e.release(1, fault{err: unix.EIO})
			c.ended(rs[2])
			e.release(0, fault{})
			c.ended(rs[0])
			got := map[*disk.Request]error{}
			for range 3 {
				r := other.wait()
				got[r] = r.Err
			}
			c.want(got[m], nil)
			if op == disk.OpFinish {
				c.want(got[after], zone.ErrInvalid)
				c.want(got[opened], zone.ErrInvalid)
				c.wantZone(2, zone.Full, 32)
				e.hold = nil
				if data := c.read(256, 5*4096); !bytes.Equal(data, slices.Concat(pattern('a', 4096), pattern('b', 4096), make([]byte, 4096), pattern('d', 4096), make([]byte, 4096))) {
					t.Error("a finished zone has other data than landed in it")
				}
			} else {
				c.want(got[after], nil)
				c.want(got[opened], nil)
				if after.AppendSector != 256 {
					t.Errorf("the append behind the reset landed at %d", after.AppendSector)
				}
				c.wantZone(2, zone.ExpOpen, 8)
				e.hold = nil
				if data := c.read(256, 4*4096); !bytes.Equal(data, append(pattern('z', 4096), make([]byte, 3*4096)...)) {
					t.Error("data from before the reset shows")
				}
			}
			closeDisk(t, d, path)
		})
	}
}

// A reset of all zones that has to wait in the line of one goes on with the
// rest when its turn has come, and waits again.
func TestResetAllWaitsZoneByZone(t *testing.T) {
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c, e := heldClient(t, d, isWrite)
	other := newClient(t, d)
	other.want(other.write(256, pattern('a', 512)), nil)
	other.want(other.write(384, pattern('a', 512)), nil)
	three, six := request(disk.OpWrite, 385, pattern('b', 512)), request(disk.OpWrite, 768, pattern('b', 512))
	fin := request(disk.OpFinish, 1024, nil)
	c.submit(three, six)
	other.want(other.do(fin), nil)
	// A second write of zone 6 that has landed: it counts as written.
	other.want(other.do(request(disk.OpAppend, 768, pattern('b', 512))), nil)
	all := request(disk.OpResetAll, 0, nil)
	other.submit(all)
	other.quiet("zone 3 has a write in flight")
	c.wantZone(2, zone.Empty, 0)
	c.wantZone(3, zone.ImpOpen, 1)
	e.release(0, fault{})
	c.ended(three)
	eventually(t, func() bool { other.quiet("zone 6 has a write in flight"); return d.ReportZone(3).State == zone.Empty })
	c.wantZone(6, zone.ImpOpen, 2)
	c.wantZone(8, zone.Full, 0)
	e.release(0, fault{err: unix.EIO})
	c.ended(six)
	other.ended(all)
	c.want(all.Err, nil)
	c.wantZone(6, zone.Empty, 0)
	c.wantZone(8, zone.Empty, 0)
	e.hold = nil
	closeDisk(t, d, path)
}

// Reads and writes that fail in conventional zones, and reads anywhere, change
// nothing.
func TestFailedReads(t *testing.T) {
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c, e := heldClient(t, d, nil)
	c.want(c.write(256, pattern('a', 4096)), nil)
	e.fault = func(op *engine.Op) fault { return fault{n: 100, err: unix.EIO} }
	err := c.do(request(disk.OpRead, 256, make([]byte, 8192)))
	c.want(err, disk.ErrIO)
	c.want(c.write(0, pattern('a', 4096)), disk.ErrIO)
	c.want(c.do(request(disk.OpRead, 264, make([]byte, 4096))), nil) // zeroes without asking the file
	e.fault = nil
	c.wantZone(2, zone.ImpOpen, 8)
	c.read(256, 8192)
	closeDisk(t, d, path)
}

// The live table cannot be written any more: in memory, where it is mapped, the process
// gets SIGBUS, elsewhere a system call fails. It costs the write an error, and nobody the
// daemon.
func TestLiveTableFaults(t *testing.T) {
	for _, mapped := range []bool{true, false} {
		path := newImageIn(t, diskDir(t, mapped), small)
		d, _ := openFaulty(t, path)
		if table := &d.img.live; (table.mem != nil) != mapped || (table.words != nil) == mapped {
			t.Fatalf("%s: the table is mapped: %v, but %v is right there", path, table.mem != nil, mapped)
		}
		d.img.size.Least.Store(0) // or that would be what is noticed: TestFileShrinks
		c := newClient(t, d)
		c.want(c.write(256, pattern('a', 512)), nil)
		lose := func() error { return os.Truncate(path, liveOff) }
		if !mapped { // a write would make the file longer again
			r, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			lose = func() error { d.img.live.fd = int(r.Fd()); return nil }
		}
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		err := onWorker(func() error { return c.zoneOp(disk.OpFinish, 256) })
		c.want(err, disk.ErrIO)
		if err == nil || !strings.Contains(err.Error(), "zone table cannot be written") {
			t.Errorf("got %v", err)
		}
		c.want(c.write(384, pattern('a', 512)), disk.ErrIO)
		c.want(c.zoneOp(disk.OpReset, 256), disk.ErrIO)
		if err := onWorker(func() error {
			if err := lose(); err != nil {
				return err
			}
			if d.img.live.storeAll(make([]zone.Entry, len(d.zones))) {
				return errors.New("a table that is not there was written")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err == nil {
			t.Error("closed cleanly")
		}
	}
}

// diskDir is a folder on a file system in memory, or on one that is not.
func diskDir(t *testing.T, memory bool) string {
	t.Helper()
	dir := fastDir(t)
	if !memory {
		dir = t.TempDir()
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || disk.InMemory(fs.Type) != memory {
		t.Fatalf("%s: in memory is %v here, %v: /dev/shm has to be a tmpfs, and TMPDIR none", dir, disk.InMemory(fs.Type), err)
	}
	return dir
}

// Only the mapping's faults are recovered from: all else is a bug.
func TestOnlyFaultsOfTheTableAreRecovered(t *testing.T) {
	table := liveTable{mem: make([]byte, 64)}
	defer func() {
		if recover() == nil {
			t.Error("a zone that is not there was stored")
		}
	}()
	table.store(8, 1)
}
