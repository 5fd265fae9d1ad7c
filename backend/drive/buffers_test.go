package drive

import (
	"bytes"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// pageAligned returns n bytes that begin on a page.
func pageAligned(n int) []byte {
	b := make([]byte, n+disk.PageBytes)
	at := int(-uintptr(unsafe.Pointer(&b[0])) & (disk.PageBytes - 1))
	return b[at : at+n]
}

// vectorsOf cuts data at these lengths.
func vectorsOf(data []byte, lengths ...int) (iov []unix.Iovec) {
	for _, n := range lengths {
		iov = append(iov, unix.Iovec{Base: &data[0], Len: uint64(n)})
		data = data[n:]
	}
	return iov
}

// However large writes are that the device cannot reach, and however many, what is
// copied at a time has a limit, and no more is sent at once than the device takes.
func TestCopies(t *testing.T) {
	const zones, n, each = disk.MaxBounces + 8, disk.MaxBounces + 5, 2*disk.BounceBytes + 8192
	for name, tt := range map[string]struct {
		conventional int
		part, pages  uint64
		longest      int // of one I/O, bytes
	}{
		"sequential":        {1, 1 << 30, 1 << 18, disk.BounceBytes},
		"conventional":      {zones - 2, 1 << 30, 1 << 18, disk.BounceBytes},
		"a device of bytes": {1, 100 << 10, 1 << 18, 100 << 10},
		"a device of pages": {1, 1 << 30, 20, 20 * disk.PageBytes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newFakeDrive(t, zone.Geometry{CapacitySectors: zones * 2048, ZoneSectors: 2048, ConventionalZones: tt.conventional, BlockSize: 4096}, nil, nil)
			d.partBytes, d.partPages = tt.part, tt.pages
			c, e := d.held(t, disktest.IsWritev)
			rs, data := make([]*disk.Request, n), make([][]byte, n)
			for i := range rs {
				zn := i + 1
				data[i] = make([]byte, each+1)[1:]
				disktest.FillSectors(data[i], func(sector int) byte { return byte(i*5 + sector + sector>>8) })
				rs[i] = &disk.Request{Op: disk.OpWrite, Sector: uint64(zn) * 2048, Bytes: each, Iov: vectorsOf(data[i], disk.BounceBytes-1, 2, each-disk.BounceBytes-1)}
			}
			c.Submit(rs...)
			most := 0
			for ended := 0; ended < n; {
				copied := 0
				for _, r := range rs {
					if requestOf(r).copied != nil {
						copied += len(requestOf(r).copied.Data)
					}
				}
				most = max(most, copied)
				e.release()
				for r := c.Lane.Done(); r != nil; r = c.Lane.Done() {
					c.WantError(r.Err, nil)
					ended++
				}
			}
			if limit := disk.MaxBounces * disk.BounceBytes; most > limit {
				t.Errorf("%d bytes are copied at once, want at most %d", most, limit)
			}
			if c.Lane.Lent() != 0 {
				t.Errorf("%d are said to be copied yet", c.Lane.Lent())
			}
			for _, op := range d.dev.ops {
				if op.Code == engine.Writev && op.Len > int64(tt.longest) {
					t.Errorf("%d bytes are written at once, want %d at most", op.Len, tt.longest)
				}
			}
			for i, r := range rs {
				if !bytes.Equal(d.dev.m.Data(r.Sector, each), data[i]) {
					t.Errorf("write %d is not there", i)
				}
			}
		})
	}
}

// Of a write that is copied in parts one fails: it ends there, and says so of no
// more than what was sent; behind it the zone goes on where the device has it.
func TestCopyFails(t *testing.T) {
	const each = 3*disk.BounceBytes + 8192
	d := newFakeDrive(t, zone.Geometry{CapacitySectors: 4 * 4096, ZoneSectors: 4096, BlockSize: 512}, nil, nil)
	c := disktest.NewClient(t, d)
	data := make([]byte, each+1)[1:]
	for at := range data {
		data[at] = byte(at>>9 + at>>17)
	}
	r := disktest.NewRequest(disk.OpWrite, 4096, data)
	d.dev.failing(engine.Writev, 4, nil, unix.EIO)
	c.WantError(c.Do(r), disk.ErrIO)
	const landed = disk.BounceBytes>>disk.SectorShift + 4
	if want := [2]uint64{disk.BounceBytes >> disk.SectorShift, 2 * disk.BounceBytes >> disk.SectorShift}; requestOf(r).tried != want {
		t.Errorf("sectors %v of the zone were tried, want %v", requestOf(r).tried, want)
	}
	if requestOf(r).copied != nil || c.Lane.Lent() != 0 {
		t.Error("its memory was not given back")
	}
	c.WantZone(1, zone.ImpOpen, landed)
	c.WantError(c.Write(4096+landed, data), nil)
	if !bytes.Equal(c.Read(4096, landed<<disk.SectorShift), data[:landed<<disk.SectorShift]) || !bytes.Equal(c.Read(4096+landed, each), data) {
		t.Error("it reads otherwise")
	}
}

// Reports of many zones, and many of them, have such a limit, too.
func TestReportsCopied(t *testing.T) {
	const zones, n = 2*zonesAtATime + 5, 2*disk.MaxBounces + 5
	d := newFakeDrive(t, zone.Geometry{CapacitySectors: zones * 8, ZoneSectors: 8, ConventionalZones: 1, BlockSize: 512}, nil, nil)
	c, e := d.held(t, func(op *engine.Op) bool { return op.Code == engine.ZoneReport })
	changed := []int{1, zonesAtATime - 1, zonesAtATime, 2*zonesAtATime - 1, 2 * zonesAtATime, zones - 1}
	for _, i := range changed {
		d.dev.set(i, zone.ReadOnly)
	}
	rs := make([]*disk.Request, n)
	for i := range rs {
		rs[i] = &disk.Request{Op: disk.OpReport, Bytes: zones}
	}
	c.Submit(rs...)
	for ended := 0; ended < n; {
		most := 0
		for _, r := range rs {
			if requestOf(r).copied != nil {
				most += len(requestOf(r).copied.Data)
			}
		}
		if limit := disk.MaxBounces * disk.BounceBytes; most > limit {
			t.Fatalf("%d bytes of reports at once, want at most %d", most, limit)
		}
		e.release()
		for r := c.Lane.Done(); r != nil; r = c.Lane.Done() {
			c.WantError(r.Err, nil)
			ended++
		}
	}
	if c.Lane.Lent() != 0 {
		t.Errorf("%d are said to go on", c.Lane.Lent())
	}
	for i := range zones {
		want := zone.Empty
		switch {
		case i == 0:
			want = zone.NotWP
		case slices.Contains(changed, i):
			want = zone.ReadOnly
		}
		if z := d.Drive.ReportZone(i); z.State != want {
			t.Errorf("zone %d is %v, want %v", i, z.State, want)
		}
	}
	// One that fails ends there.
	asked := d.dev.count(engine.ZoneReport)
	d.dev.failing(engine.ZoneReport, 0, nil, unix.EIO)
	c.Submit(rs[0])
	e.release()
	if r := c.Lane.Done(); r != nil {
		t.Fatal("it has not asked about all zones")
	}
	e.release()
	c.WantError(c.Wait().Err, disk.ErrIO)
	if got := d.dev.count(engine.ZoneReport) - asked; got != 2 || c.Lane.Lent() != 0 {
		t.Errorf("%d were asked for, and %d are said to go on", got, c.Lane.Lent())
	}
}
