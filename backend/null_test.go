package backend

import (
	"bytes"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/plain"
)

func newNull(t testing.TB, sectors uint64) disk.Disk {
	t.Helper()
	d, err := plain.NewNull(sectors)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// A disk without storage answers everything that an ordinary disk answers, and
// touches no data.
func TestNull(t *testing.T) {
	const sectors = 1000
	d := newNull(t, sectors)
	if i := d.Info(); i.CapacitySectors != sectors || i.LogicalBlockSize != 512 || i.ReadOnly || i.Zoned != nil {
		t.Errorf("info %+v", i)
	}
	c := disktest.NewClient(t, d)
	for _, step := range []struct {
		sector uint64
		n      int
		err    error
	}{
		{0, 512, nil},
		{8, 4096, nil},
		{sectors - 1, 512, nil},
		{sectors, 0, nil},
		{sectors, 512, disk.ErrRange},
		{sectors - 1, 1024, disk.ErrRange},
		{0, 511, disk.ErrRange},
		{1<<64 - 1, 512, disk.ErrRange},
	} {
		c.WantError(c.Write(step.sector, disktest.Pattern('w', step.n)), step.err)
		mine := disktest.Pattern('r', step.n)
		c.WantError(c.Do(disktest.NewRequest(disk.OpRead, step.sector, mine)), step.err)
		if !bytes.Equal(mine, disktest.Pattern('r', step.n)) {
			t.Errorf("a read of %d bytes at %d touched the guest's memory", step.n, step.sector)
		}
	}
	c.WantError(c.Do(&disk.Request{Op: disk.OpFlush}), nil)
	for _, op := range []disk.Op{disk.OpDiscard, disk.OpWriteZeroes} {
		c.WantError(c.Do(ranges(op, disk.Range{Sector: 0, Sectors: sectors}, disk.Range{Sector: 5})), nil)
		c.WantError(c.Do(ranges(op, disk.Range{Sector: 1, Sectors: sectors})), disk.ErrRange)
		c.WantError(c.Do(ranges(op, disk.Range{Sectors: plain.MaxRangeSectors + 1})), disk.ErrRange)
	}
	for op := disk.OpAppend; op < disk.NumOps; op++ {
		c.WantError(c.Do(&disk.Request{Op: op}), disk.ErrUnsupported)
	}
}

func TestNullSizes(t *testing.T) {
	for sectors, good := range map[uint64]bool{0: false, 1: true, 1 << 54: true, 1<<54 + 1: false} {
		if _, err := plain.NewNull(sectors); (err == nil) != good {
			t.Errorf("%d sectors: %v", sectors, err)
		}
	}
}

// Faults strike where there is no storage too.
func TestNullFaults(t *testing.T) {
	d := newNull(t, 1<<20)
	c := disktest.NewClient(t, d)
	for _, text := range []string{"read,times=1", "write,times=1", "flush,times=1", "latency=1ms,times=2"} {
		f, err := disk.ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Faults().Add(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []error{disk.ErrIO, nil} {
		c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 0, make([]byte, 512))), want)
		c.WantError(c.Write(0, make([]byte, 512)), want)
		c.WantError(c.Do(&disk.Request{Op: disk.OpFlush}), want)
	}
}

func TestNullAllocates(t *testing.T) {
	c := disktest.NewClient(t, newNull(t, 1<<20))
	r := disktest.NewRequest(disk.OpWrite, 8, make([]byte, 4096))
	if n := testing.AllocsPerRun(100, func() { c.WantError(c.Do(r), nil) }); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}
