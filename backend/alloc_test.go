package backend

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// No request allocates, whatever it is, whether it goes by itself or in a batch.
// The helpers of the thread engine are warmed up first, and so are the clipped
// vectors of a read across the write pointer.
func TestNoAllocations(t *testing.T) {
	path := imagetest.NewFast(t, zone.Geometry{CapacitySectors: 64 << 11, ZoneSectors: 8 << 11, ConventionalZones: 1})
	d := openDisk(t, path)
	defer func() { imagetest.CloseDisk(t, d, path) }()
	plain := openDisk(t, newPlain(t, 1<<20))
	defer func() {
		if err := plain.Close(); err != nil {
			t.Error(err)
		}
	}()
	c := disktest.NewClient(t, d)
	const zn = 8 << 11
	c.WantError(c.Write(zn*3, make([]byte, 4096)), nil)
	c.WantError(c.Flush(), nil)

	data := make([]byte, 4096)
	iov := []unix.Iovec{{Base: &data[0], Len: 1000}, {Base: &data[1000], Len: 3096}}
	var wp uint64
	single := new(disk.Request)
	one := func(d disk.Disk, op disk.Op, sector uint64) {
		single.Op, single.Sector, single.Iov, single.Bytes, single.Stable = op, sector, iov, 4096, false
		c.Lane.Submit(d, single)
		c.Lane.Start()
		c.Wait()
		if single.Err != nil {
			t.Fatal(single.Err)
		}
	}
	batch := make([]*disk.Request, 8)
	for i := range batch {
		batch[i] = new(disk.Request)
	}
	many := func(d disk.Disk, op disk.Op, sector uint64) {
		for _, r := range batch {
			r.Op, r.Sector, r.Iov, r.Bytes, r.Stable = op, sector, iov, 4096, op == disk.OpWrite
			c.Lane.Submit(d, r)
		}
		c.Lane.Start()
		for range batch {
			if r := c.Wait(); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	for name, f := range map[string]func(){
		"read":                func() { one(d, disk.OpRead, zn*3) },
		"read half written":   func() { one(d, disk.OpRead, zn*3+4) },
		"read of nothing":     func() { one(d, disk.OpRead, zn*4) },
		"write":               func() { one(d, disk.OpWrite, zn+wp); wp += 8 },
		"append":              func() { one(d, disk.OpAppend, zn*2) },
		"write conventional":  func() { one(d, disk.OpWrite, 100) },
		"flush":               func() { one(d, disk.OpFlush, 0) },
		"batch of reads":      func() { many(d, disk.OpRead, zn*3) },
		"batch of appends":    func() { many(d, disk.OpAppend, zn*5) },
		"read, ordinary disk": func() { one(plain, disk.OpRead, 0) },
		"write, ordinary":     func() { one(plain, disk.OpWrite, 8) },
		"flush, ordinary":     func() { one(plain, disk.OpFlush, 0) },
		"flushes, ordinary":   func() { many(plain, disk.OpFlush, 0) },
		"stable, ordinary":    func() { many(plain, disk.OpWrite, 8) },
		"stable conventional": func() { many(d, disk.OpWrite, 100) },
		"report":              func() { _ = d.ReportZone(3) },
	} {
		f()
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
