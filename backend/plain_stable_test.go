package backend

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
)

// "The device MUST ensure that stable writes are committed to it, before
// reporting completion of the write" or the flush (virtio, "Device Operation"):
// what an ordinary disk asks of its engine, and that it waits for it.
func TestPlainStable(t *testing.T) {
	for _, direct := range []bool{false, true} {
		testPlainStable(t, disk.Options{Direct: direct})
	}
}

func testPlainStable(t *testing.T, o disk.Options) {
	d, err := Open(newPlain(t, 1<<20), o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	write := engine.Op{Code: engine.Fdatasync} // see Request.through
	if o.Direct {
		write = engine.Op{Code: engine.Writev, Dsync: true}
	}
	block := int(d.Info().LogicalBlockSize)
	c, e := disktest.HeldClient(t, d, nil)
	for _, stable := range []bool{false, true} {
		for _, step := range []struct {
			r    *disk.Request
			last engine.Op // what it ends with, where it has to be stable
		}{
			{disktest.NewRequest(disk.OpWrite, 0, make([]byte, block)), write},
			{ranges(disk.OpWriteZeroes, disk.Range{Sectors: 8}), engine.Op{Code: engine.Fdatasync}},
			{ranges(disk.OpDiscard, disk.Range{Sectors: 8}), engine.Op{Code: engine.Fdatasync}},
			{disktest.NewRequest(disk.OpFlush, 0, nil), engine.Op{Code: engine.Fdatasync}},
		} {
			step.r.Stable = stable
			want := stable || step.r.Op == disk.OpFlush
			is := func(op *engine.Op) bool { return op.Code == step.last.Code && op.Dsync == step.last.Dsync }
			var got []bool
			e.Fault = func(op *engine.Op) disktest.OpFault {
				got = append(got, is(op))
				return disktest.OpFault{}
			}
			c.WantError(c.Do(step.r), nil)
			if len(got) == 0 || got[len(got)-1] != want || slices.Contains(got, true) != want {
				t.Errorf("%v, direct %v, to be stable %v: ends with what makes it so: %v", step.r.Op, o.Direct, stable, got)
			}
			if step.r.Op == disk.OpFlush && len(got) != 1 {
				t.Errorf("a flush is %d system calls", len(got))
			}
			if !want {
				continue
			}
			e.Fault = func(op *engine.Op) disktest.OpFault {
				if is(op) {
					return disktest.OpFault{Err: unix.EIO}
				}
				return disktest.OpFault{}
			}
			if step.last.Code == engine.Writev { // a failed sync would stay
				c.WantError(c.Do(step.r), disk.ErrIO)
			}
		}
	}
}
