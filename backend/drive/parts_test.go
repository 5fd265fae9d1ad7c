package drive

import (
	"bytes"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// A write that is too long for the device at once is refused for the reason that
// its first part is refused for, and lands whole otherwise. Found with null_blk:
// the kernel splits such a write, and then says EIO for one part or the other
// where it is the limit of open zones.
func TestLongWrite(t *testing.T) {
	const longest = 8 << disk.SectorShift
	d := newFakeDrive(t, zone.Geometry{CapacitySectors: 4 * 128, ZoneSectors: 128, MaxOpen: 1, BlockSize: 512}, nil, nil)
	d.partBytes = longest
	d.dev.fault = func(op *engine.Op) (int64, error) {
		if op.Code == engine.Writev && op.Len > longest {
			return 0, unix.EIO // that of another part
		}
		return 0, nil
	}
	c := disktest.NewClient(t, d)
	data := disktest.Pattern(7, 60<<disk.SectorShift)
	c.WantError(c.ZoneOp(disk.OpOpen, 0), nil)
	c.WantError(c.Write(128, data), zone.ErrOpenLimit)
	c.WantError(c.Write(0, data), nil)
	c.WantZone(0, zone.ExpOpen, 60)
	if !bytes.Equal(c.Read(0, len(data)), data) {
		t.Error("it reads otherwise")
	}
}

// Where a write is cut: at what the device takes at once, in bytes and in pages of
// memory, and where it may be written to; the end of a write to a conventional
// zone is what it is. What the device cannot reach, at an odd address, is copied
// together, so there it does not matter how it is cut.
func TestParts(t *testing.T) {
	all := pageAligned(96*512 + 1)
	for name, tt := range map[string]struct {
		bytes, pages uint64
		granularity  uint32
		sector       uint64
		vectors      []int // sectors of each
		want         []uint64
		odd          int // bytes
	}{
		"fits":                              {64 << 9, 8, 512, 256, []int{64}, []uint64{64}, 0},
		"by bytes":                          {24 << 9, 100, 512, 256, []int{64}, []uint64{24, 24, 16}, 0},
		"by pages":                          {1 << 20, 3, 512, 256, []int{64}, []uint64{16, 16, 16, 16}, 0},
		"vectors by bytes":                  {24 << 9, 100, 512, 256, []int{8, 8, 9, 8, 16}, []uint64{16, 17, 16}, 0},
		"vectors by pages":                  {1 << 20, 2, 512, 256, []int{1, 1, 1, 1, 1}, []uint64{2, 2, 1}, 0},
		"not within a granule":              {1 << 20, 2, 4096, 256, []int{2, 2, 2, 2, 8}, []uint64{8, 8}, 0},
		"conventional, less than one":       {1 << 20, 8, 4096, 0, []int{1}, []uint64{1}, 0},
		"conventional, a bit more":          {8 << 9, 8, 4096, 0, []int{8, 8, 1}, []uint64{8, 8, 1}, 0},
		"conventional, from anywhere":       {8 << 9, 8, 4096, 3, []int{17}, []uint64{8, 8, 1}, 0},
		"nothing in between and at the end": {8 << 9, 100, 512, 256, []int{0, 8, 0, 8, 0, 0}, []uint64{8, 8}, 0},
		"odd, by bytes":                     {24 << 9, 100, 512, 256, []int{8, 8, 9, 8, 31}, []uint64{24, 24, 16}, 1},
		"odd, by pages":                     {1 << 20, 3, 512, 256, []int{64}, []uint64{24, 24, 16}, 4},
		"odd, less than a granule":          {512, 2, 4096, 256, []int{5, 11}, []uint64{8, 8}, 3},
		"odd, conventional":                 {9 << 9, 8, 4096, 3, []int{17}, []uint64{8, 8, 1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDrive(t, disktest.Small, nil, nil)
			d.partBytes, d.partPages, d.info.Zoned.WriteGranularity = tt.bytes, tt.pages, tt.granularity
			c, memory := disktest.NewClient(t, d), all[tt.odd:]
			r := disktest.NewRequest(disk.OpWrite, tt.sector, nil)
			for i, n := range tt.vectors {
				v := unix.Iovec{Len: uint64(n) * 512}
				if n > 0 {
					v.Base = &memory[r.Bytes]
					for at := range n * 512 {
						memory[int(r.Bytes)+at] = byte(i + 1 + at/512)
					}
				}
				r.Iov, r.Bytes = append(r.Iov, v), r.Bytes+v.Len
			}
			c.WantError(c.Do(r), nil)
			var got []uint64
			at := tt.sector
			for _, w := range d.dev.writes() {
				if w.at != at {
					t.Errorf("a part is at sector %d, want %d", w.at, at)
				}
				at += w.sectors
				if w.sectors > 0 {
					got = append(got, w.sectors)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("parts of %v sectors, want %v", got, tt.want)
			}
			if !bytes.Equal(d.dev.m.Data(tt.sector, r.Bytes), memory[:r.Bytes]) {
				t.Error("something else was written")
			}
		})
	}
}

// A part that fails ends the write; those before it have landed.
func TestPartFails(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	d.partBytes = 8 << disk.SectorShift
	c, e := d.held(t, disktest.IsWritev)
	first, second, third := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('a', 512)), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('b', 8*512)), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('c', 20*512))
	c.Submit(first, second, third)
	d.dev.failing(engine.Writev, 4, nil, nil, nil, unix.EIO)
	for n := 0; n < 3; {
		if c.Lane.Done() != nil {
			n++
		} else {
			e.release()
		}
	}
	c.WantError(first.Err, nil)
	c.WantError(second.Err, nil)
	c.WantError(third.Err, disk.ErrIO)
	c.WantZone(2, zone.ImpOpen, 1+8+8+4)
}
