package backend

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// Appends of one zone are in flight together and end in any order; each landed
// where it says, and the write pointer is right after each.
func TestAppendsOutOfOrder(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	rs := c.AppendEach(e, 256, 4)
	c.WantZone(2, zone.Empty, 0) // nothing has landed: nothing is told
	for n, i := range []int{2, 0, 3, 1} {
		// What is held shifts down with each release.
		at := slices.IndexFunc(e.Held, func(op *engine.Op) bool { return op.Owner == rs[i] })
		e.Release(at, disktest.OpFault{})
		c.WantDone(rs[i])
		c.WantError(rs[i].Err, nil)
		if want := 256 + 8*uint64(i); rs[i].AppendSector != want {
			t.Errorf("append %d landed at %d, want %d", i, rs[i].AppendSector, want)
		}
		c.WantZone(2, zone.ImpOpen, []uint64{24, 24, 32, 32}[n])
	}
	e.Hold = nil
	if got := c.Read(256, 4*4096); !bytes.Equal(got, slices.Concat(disktest.Pattern('a', 4096), disktest.Pattern('b', 4096), disktest.Pattern('c', 4096), disktest.Pattern('d', 4096))) {
		t.Error("the data is not what was appended")
	}
	imagetest.CloseDisk(t, d, path)
}

// Of three writes in flight in one zone some fail, whole or half way, in all
// combinations and all orders of ending. The write pointer ends behind the last
// that landed, what failed reads as zeroes and not as half a write, the zone
// takes the next write there, and other zones are as they were.
func TestSomeWritesFail(t *testing.T) {
	faults := []disktest.OpFault{{}, {Err: unix.EIO}, {N: 2048, Err: unix.ENOSPC}, {N: 4096, Err: unix.EIO}, {N: 1000, Err: unix.EFAULT}}
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	c.WantError(c.WriteUnheld(e, 640, disktest.Pattern('n', 4096)), nil)
	cases := 0
	for _, first := range []uint64{0, 8} { // in an empty zone, and behind a write
		for combo := range len(faults) * len(faults) * len(faults) {
			f := []disktest.OpFault{faults[combo%5], faults[combo/5%5], faults[combo/25]}
			order := orders[combo%len(orders)]
			c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
			if first != 0 {
				c.WantError(c.WriteUnheld(e, 256, disktest.Pattern('z', 4096)), nil)
			}
			rs := c.AppendEach(e, 256, 3)
			for _, i := range order {
				at := slices.IndexFunc(e.Held, func(op *engine.Op) bool { return op.Owner == rs[i] })
				e.Release(at, f[i])
				c.WantDone(rs[i])
			}
			want := make([]byte, 5*4096)
			copy(want, disktest.Pattern('z', int(first)*512))
			wp := first
			for i, r := range rs {
				at := first + 8*uint64(i)
				if f[i].Err != nil {
					c.WantError(r.Err, disk.ErrIO)
					c.WantError(r.Err, f[i].Err)
					continue
				}
				c.WantError(r.Err, nil)
				wp = at + 8
				copy(want[at*512:], disktest.Pattern(byte('a'+i), 4096))
			}
			state := zone.ImpOpen
			if wp == 0 {
				state = zone.Empty
			}
			c.WantZone(2, state, wp)
			c.WantError(c.WriteUnheld(e, 256+wp, disktest.Pattern('y', 512)), nil)
			copy(want[wp*512:], disktest.Pattern('y', 512))
			if got := c.Read(256, len(want)); !bytes.Equal(got, want) {
				t.Fatalf("faults %v in order %v: other data than was written", f, order)
			}
			cases++
		}
	}
	c.WantZone(5, zone.ImpOpen, 8)
	e.Hold = nil
	if !bytes.Equal(c.Read(640, 4096), disktest.Pattern('n', 4096)) {
		t.Error("another zone changed")
	}
	t.Logf("%d cases", cases)
	imagetest.CloseDisk(t, d, path)
}

// A failed write gives back what it took: the open and active resources, and
// the end of the zone.
func TestFailedWriteGivesBack(t *testing.T) {
	g := disktest.Small
	g.MaxOpen, g.MaxActive = 1, 1
	path := imagetest.NewFast(t, g)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	r := disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('a', 96*512)) // would fill the zone
	c.Submit(r)
	c.WantError(c.Write(384, disktest.Pattern('b', 512)), zone.ErrActiveLimit)
	more := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('a', 512))
	c.WantError(c.Do(more), zone.ErrInvalid) // full, as far as one can tell now
	e.Release(0, disktest.OpFault{N: 512, Err: unix.ENOSPC})
	c.WantDone(r)
	c.WantError(r.Err, unix.ENOSPC)
	c.WantZone(2, zone.Empty, 0)
	c.WantError(c.WriteUnheld(e, 384, disktest.Pattern('b', 512)), nil)
	c.WantError(c.ZoneOp(disk.OpReset, 384), nil)

	// An explicitly open zone stays open.
	c.WantError(c.ZoneOp(disk.OpOpen, 256), nil)
	c.Submit(r)
	e.Release(0, disktest.OpFault{Err: unix.EIO})
	c.WantDone(r)
	c.WantZone(2, zone.ExpOpen, 0)
	// A close that came while its only write was in flight, which then fails:
	// nothing was ever written, so it is empty.
	closing := disktest.NewRequest(disk.OpClose, 256, nil)
	c.Submit(r, closing)
	c.WantNothingDone("nobody knows yet what is closed there")
	e.Release(0, disktest.OpFault{Err: unix.EIO})
	c.WantDone(r, closing)
	c.WantError(closing.Err, nil)
	c.WantZone(2, zone.Empty, 0)
	c.WantError(c.WriteUnheld(e, 384, disktest.Pattern('b', 512)), nil)
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}

// What is left of a failed write is zeroed in place where the file system makes
// no hole, for whatever reason.
func TestFailedWriteWithoutHoles(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	for _, scrub := range []disktest.OpFault{{Err: unix.EOPNOTSUPP}, {Err: unix.EIO}} {
		e.Fault = func(op *engine.Op) disktest.OpFault {
			if op.Code == engine.PunchHole {
				return scrub
			}
			return disktest.OpFault{}
		}
		rs := c.AppendEach(e, 256, 2)
		e.Release(0, disktest.OpFault{N: 1024, Err: unix.EIO})
		e.Release(0, disktest.OpFault{})
		c.WantDone(rs[1], rs[0]) // the failed one has more to do
		c.WantError(rs[0].Err, disk.ErrIO)
		c.WantError(rs[1].Err, nil)
		c.WantZone(2, zone.ImpOpen, 16)
		if got := c.Read(256, 8192); !bytes.Equal(got, append(make([]byte, 4096), disktest.Pattern('b', 4096)...)) {
			t.Error("half a write that failed can be read")
		}
		c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
	}
	imagetest.CloseDisk(t, d, path)
}

// Seed bug 1: one lock over all zones was held for the whole I/O. With a write
// in flight, others go on: in the same zone, in other zones, on other lanes.
func TestSeedWritesRunInParallel(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	other := disktest.NewClient(t, d)
	held := disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('a', 4096))
	c.Submit(held)
	at, err := other.Append(256, disktest.Pattern('b', 4096))
	other.WantError(err, nil)
	if at != 264 {
		t.Errorf("an append behind a write in flight landed at %d", at)
	}
	other.WantError(other.Write(384, disktest.Pattern('c', 4096)), nil)
	other.WantError(other.ZoneOp(disk.OpFinish, 384), nil)
	other.WantError(other.ZoneOp(disk.OpOpen, 256), nil) // nothing that moves the pointer
	other.WantError(other.ZoneOp(disk.OpClose, 256), nil)
	other.Read(264, 4096)
	c.WantNothingDone("its data was never written")
	c.ReleaseAll(e)
	c.WantDone(held)
	c.WantError(held.Err, nil)
	c.WantZone(2, zone.Closed, 16)
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}

// Seed bug 2: zone management did not care for writes in flight. A reset or
// finish waits for those of its zone, and those that come after it wait for it.
func TestSeedManagementWaitsForWrites(t *testing.T) {
	for _, op := range []disk.Op{disk.OpReset, disk.OpFinish, disk.OpResetAll} {
		t.Run(op.String(), func(t *testing.T) {
			path := imagetest.NewFast(t, disktest.Small)
			d := openDisk(t, path)
			c, e := disktest.HeldClient(t, d, disktest.IsWritev)
			other := disktest.NewClient(t, d)
			rs := c.AppendEach(e, 256, 3)
			// One has landed, so that the zone is not empty for a reset of all.
			at, err := other.Append(256, disktest.Pattern('d', 4096))
			other.WantError(err, nil)
			if at != 256+24 {
				t.Errorf("landed at %d", at)
			}
			m := disktest.NewRequest(op, 256, nil)
			after := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('z', 4096))
			opened := disktest.NewRequest(disk.OpOpen, 256, nil)
			other.Submit(m, after, opened)
			other.WantNothingDone("writes of its zone are in flight")
			other2 := disktest.NewClient(t, d)
			other2.WantError(other2.Write(384, disktest.Pattern('o', 512)), nil) // another zone is not held up
			e.Release(1, disktest.OpFault{})
			c.WantDone(rs[1])
			other.WantNothingDone("writes of its zone are in flight")
			e.Release(1, disktest.OpFault{Err: unix.EIO})
			c.WantDone(rs[2])
			e.Release(0, disktest.OpFault{})
			c.WantDone(rs[0])
			got := map[*disk.Request]error{}
			for range 3 {
				r := other.Wait()
				got[r] = r.Err
			}
			c.WantError(got[m], nil)
			if op == disk.OpFinish {
				c.WantError(got[after], zone.ErrInvalid)
				c.WantError(got[opened], zone.ErrInvalid)
				c.WantZone(2, zone.Full, 32)
				e.Hold = nil
				if data := c.Read(256, 5*4096); !bytes.Equal(data, slices.Concat(disktest.Pattern('a', 4096), disktest.Pattern('b', 4096), make([]byte, 4096), disktest.Pattern('d', 4096), make([]byte, 4096))) {
					t.Error("a finished zone has other data than landed in it")
				}
			} else {
				c.WantError(got[after], nil)
				c.WantError(got[opened], nil)
				if after.AppendSector != 256 {
					t.Errorf("the append behind the reset landed at %d", after.AppendSector)
				}
				c.WantZone(2, zone.ExpOpen, 8)
				e.Hold = nil
				if data := c.Read(256, 4*4096); !bytes.Equal(data, append(disktest.Pattern('z', 4096), make([]byte, 3*4096)...)) {
					t.Error("data from before the reset shows")
				}
			}
			imagetest.CloseDisk(t, d, path)
		})
	}
}

// A reset of all zones that has to wait in the line of one goes on with the
// rest when its turn has come, and waits again.
func TestResetAllWaitsZoneByZone(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	other := disktest.NewClient(t, d)
	other.WantError(other.Write(256, disktest.Pattern('a', 512)), nil)
	other.WantError(other.Write(384, disktest.Pattern('a', 512)), nil)
	three, six := disktest.NewRequest(disk.OpWrite, 385, disktest.Pattern('b', 512)), disktest.NewRequest(disk.OpWrite, 768, disktest.Pattern('b', 512))
	fin := disktest.NewRequest(disk.OpFinish, 1024, nil)
	c.Submit(three, six)
	other.WantError(other.Do(fin), nil)
	// A second write of zone 6 that has landed: it counts as written.
	other.WantError(other.Do(disktest.NewRequest(disk.OpAppend, 768, disktest.Pattern('b', 512))), nil)
	all := disktest.NewRequest(disk.OpResetAll, 0, nil)
	other.Submit(all)
	other.WantNothingDone("zone 3 has a write in flight")
	c.WantZone(2, zone.Empty, 0)
	c.WantZone(3, zone.ImpOpen, 1)
	e.Release(0, disktest.OpFault{})
	c.WantDone(three)
	disktest.Await(t, func() bool {
		other.WantNothingDone("zone 6 has a write in flight")
		return d.ReportZone(3).State == zone.Empty
	})
	c.WantZone(6, zone.ImpOpen, 2)
	c.WantZone(8, zone.Full, 0)
	e.Release(0, disktest.OpFault{Err: unix.EIO})
	c.WantDone(six)
	other.WantDone(all)
	c.WantError(all.Err, nil)
	c.WantZone(6, zone.Empty, 0)
	c.WantZone(8, zone.Empty, 0)
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}

// Reads and writes that fail in conventional zones, and reads anywhere, change
// nothing.
func TestFailedReads(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, nil)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	e.Fault = func(op *engine.Op) disktest.OpFault { return disktest.OpFault{N: 100, Err: unix.EIO} }
	err := c.Do(disktest.NewRequest(disk.OpRead, 256, make([]byte, 8192)))
	c.WantError(err, disk.ErrIO)
	c.WantError(c.Write(0, disktest.Pattern('a', 4096)), disk.ErrIO)
	c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 264, make([]byte, 4096))), nil) // zeroes without asking the file
	e.Fault = nil
	c.WantZone(2, zone.ImpOpen, 8)
	c.Read(256, 8192)
	imagetest.CloseDisk(t, d, path)
}

// The live table cannot be written any more: in memory, where it is mapped, the process
// gets SIGBUS, elsewhere a system call fails. It costs the write an error, and nobody the
// daemon.
func TestLiveTableFaults(t *testing.T) {
	for _, mapped := range []bool{true, false} {
		path := imagetest.NewIn(t, diskDir(t, mapped), disktest.Small)
		d, _ := openFaulty(t, path)
		d.img.Size.Least.Store(0) // or that would be what is noticed: TestFileShrinks
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, disktest.Pattern('a', 512)), nil)
		lose := func() error { return os.Truncate(path, format.LiveOff) }
		if !mapped { // a write would make the file longer again
			r, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			lose = func() error { d.img.Live.FD = int(r.Fd()); return nil }
		}
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		err := disktest.WithFaultPanics(func() error { return c.ZoneOp(disk.OpFinish, 256) })
		c.WantError(err, disk.ErrIO)
		if err == nil || !strings.Contains(err.Error(), "zone table cannot be written") {
			t.Errorf("got %v", err)
		}
		c.WantError(c.Write(384, disktest.Pattern('a', 512)), disk.ErrIO)
		c.WantError(c.ZoneOp(disk.OpReset, 256), disk.ErrIO)
		if err := d.Close(); err == nil {
			t.Error("closed cleanly")
		}
	}
}

// diskDir is a folder on a file system in memory, or on one that is not.
func diskDir(t *testing.T, memory bool) string {
	t.Helper()
	dir := disktest.FastDir(t)
	if !memory {
		dir = t.TempDir()
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || disk.InMemory(fs.Type) != memory {
		t.Fatalf("%s: in memory is %v here, %v: /dev/shm has to be a tmpfs, and TMPDIR none", dir, disk.InMemory(fs.Type), err)
	}
	return dir
}
