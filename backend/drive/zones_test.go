//go:build !zvhost_onelock

// What is here holds drives to what the benchmark's build leaves out on purpose: writes
// that follow one another are made one, and zones do not wait for each other
// (lock_one.go). It would fail there, or wait for ever.

package drive

import (
	"bytes"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// Only what the device cannot reach itself is copied, together with what is written
// with it: where a vector begins at an odd address, or is no whole blocks. What is
// written and read is right either way.
func TestBuffers(t *testing.T) {
	memory := pageAligned(64 << 10)
	for name, tt := range map[string]struct {
		at      int // where in the page the data begins
		lengths []int
		direct  bool
	}{
		"aligned":                   {0, []int{8192}, true},
		"at the device's grain":     {8, []int{8192}, true},
		"whole blocks":              {0, []int{512, 1024, 6656}, true},
		"an odd address":            {4, []int{8192}, false},
		"a very odd address":        {1, []int{8192}, false},
		"odd lengths":               {0, []int{1000, 3096, 4096}, false},
		"odd by one":                {0, []int{511, 1, 7680}, false},
		"the last one odd":          {0, []int{4096, 4000, 96}, false},
		"aligned, the others not":   {0, []int{4096, 1, 4095}, false},
		"lengths of bytes":          {0, []int{1, 1, 1, 1, 1, 8187}, false},
		"whole blocks, odd address": {3, []int{512, 512, 7168}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDrive(t, disktest.Small, nil, nil)
			c, e := d.held(t, disktest.IsWritev)
			aligned := pageAligned(4096)
			lead, neighbour := disktest.NewRequest(disk.OpAppend, 256, aligned), disktest.NewRequest(disk.OpAppend, 256, aligned)
			data := memory[tt.at:][:8192]
			for i := range data {
				data[i] = byte(i * 7 >> 3)
			}
			want := bytes.Clone(data)
			r := &disk.Request{Op: disk.OpAppend, Sector: 256, Bytes: 8192, Iov: vectorsOf(data, tt.lengths...)}
			c.Submit(lead)
			c.Submit(r, neighbour)
			e.release()
			c.WantDone(lead)
			c.Lane.Start()
			ours, others := 0, 0
			for _, v := range e.kept[0].Iov {
				switch at := uintptr(unsafe.Pointer(v.Base)); {
				case at >= uintptr(unsafe.Pointer(&memory[0])) && at <= uintptr(unsafe.Pointer(&memory[len(memory)-1])):
					ours++
				case at == uintptr(unsafe.Pointer(&aligned[0])):
					others++
				}
			}
			if (ours > 0) != tt.direct || (others == 1) != tt.direct {
				t.Errorf("the device is given %d vectors of the request, %d of its neighbour", ours, others)
			}
			e.release()
			for range 2 {
				c.WantError(c.Wait().Err, nil)
			}
			if requestOf(r).copied != nil {
				t.Error("its memory was not given back")
			}
			clear(data)
			read := &disk.Request{Op: disk.OpRead, Sector: r.AppendSector, Bytes: 8192, Iov: r.Iov}
			c.WantError(c.Do(read), nil)
			if !bytes.Equal(data, want) {
				t.Error("it reads otherwise")
			}
			op := d.dev.ops[len(d.dev.ops)-1]
			if direct := op.Iov[0].Base == r.Iov[0].Base; op.Code != engine.Readv || direct != tt.direct {
				t.Errorf("read directly: %v", direct)
			}
			// Across the write pointer: half of it is zeroes.
			clear(data)
			read.Sector = 256 + 24
			c.WantError(c.Do(read), nil)
			if !bytes.Equal(data, append(bytes.Clone(aligned), make([]byte, 4096)...)) {
				t.Error("it reads otherwise across the write pointer")
			}
		})
	}
}

// Memory that the front-end has taken away costs the request that uses it an
// error, and those that were made one with it; the zone is as it was, and goes on.
func TestMemoryGone(t *testing.T) {
	gone, err := unix.Mmap(-1, 0, 4*disk.PageBytes, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(gone); err != nil {
			t.Error(err)
		}
	})
	at := func(op disk.Op, sector uint64, off int) *disk.Request {
		base := (*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(gone)), off))
		return &disk.Request{Op: op, Sector: sector, Bytes: 8192, Iov: []unix.Iovec{{Base: base, Len: 8192}}}
	}
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c, e := d.held(t, disktest.IsWritev)
	lead, behind := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('a', 8192)), disktest.NewRequest(disk.OpWrite, 256+16, disktest.Pattern('b', 512))
	batch := []*disk.Request{disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('x', 512)), at(disk.OpAppend, 256, 4), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('x', 512))}
	c.Submit(lead)
	c.Submit(batch...)
	c.Submit(behind)
	if err := disktest.WithFaultPanics(func() error {
		e.release()
		for n := 0; n < 5; {
			if c.Lane.Done() != nil {
				n++
			} else if len(e.kept) > 0 {
				e.release()
			}
		}
		for _, r := range batch {
			c.WantError(r.Err, unix.EFAULT)
			c.WantError(r.Err, disk.ErrIO)
		}
		e.hold = nil
		for _, off := range []int{0, 4, 3} { // the device's own EFAULT, and that of a copy
			for _, r := range []*disk.Request{
				at(disk.OpWrite, 256+17, off), at(disk.OpAppend, 384, off), at(disk.OpWrite, 0, off), at(disk.OpRead, 256, off),
				at(disk.OpRead, 256+16, off), at(disk.OpRead, 640, off), at(disk.OpRead, 0, off),
			} {
				err := c.Do(r)
				c.WantError(err, unix.EFAULT)
				c.WantError(err, disk.ErrIO)
				if requestOf(r).copied != nil {
					t.Error("its memory was not given back")
				}
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	c.WantError(lead.Err, nil)
	c.WantError(behind.Err, nil)
	c.WantZone(2, zone.ImpOpen, 17)
	c.WantZone(3, zone.Empty, 0)
	if !bytes.Equal(c.Read(256, 17*512), append(disktest.Pattern('a', 8192), disktest.Pattern('b', 512)...)) {
		t.Error("the zone holds something else")
	}
}

// Some of several writes that were made one land, and then it fails: what landed
// whole is good, what did not fails, and who stood in line behind them is
// admitted by the drive's write pointer. A stable one fails, for nobody knows
// that it is; and so do all where the write pointer has moved over the whole write:
// something of it failed, and nobody knows what.
func TestWritesFailHalfWay(t *testing.T) {
	for _, stable := range []bool{false, true} {
		for landed := int64(0); landed <= 24; landed++ {
			d := newFakeDrive(t, disktest.Small, nil, nil)
			c, e := d.held(t, disktest.IsWritev)
			first := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('z', 8*512))
			var batch []*disk.Request
			for i := range 3 {
				r := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern(byte('a'+i), 8*512))
				r.Stable = stable
				batch = append(batch, r)
			}
			appended := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('d', 32*512)) // too long to come with them
			fits := disktest.NewRequest(disk.OpWrite, 256+8+uint64(landed)+32, disktest.Pattern('e', 512))
			wrong := disktest.NewRequest(disk.OpWrite, 256+8+24+32, disktest.Pattern('f', 512)) // where it would have been
			c.Submit(first)
			c.Submit(batch...)
			c.Submit(appended, fits, wrong)
			e.release()
			c.WantDone(first)
			c.Lane.Start()
			d.dev.failing(engine.Writev, landed, unix.EIO)
			e.release()
			for n := 0; n < 6; {
				if c.Lane.Done() != nil {
					n++
				} else if len(e.kept) > 0 {
					e.release()
				}
			}
			for i, r := range batch {
				if whole := landed >= int64(i+1)*8; whole && landed < 24 && !stable {
					c.WantError(r.Err, nil)
				} else {
					c.WantError(r.Err, disk.ErrIO)
				}
			}
			wp := 8 + uint64(landed)
			c.WantError(appended.Err, nil)
			c.WantError(fits.Err, nil)
			if landed == 23 {
				c.WantError(wrong.Err, nil) // now it is there
			} else {
				c.WantError(wrong.Err, zone.ErrUnaligned)
			}
			if appended.AppendSector != 256+wp {
				t.Errorf("%d landed: the next append is at %d", landed, appended.AppendSector-256)
			}
			for i, r := range batch {
				if r.Err == nil && !bytes.Equal(c.Read(r.AppendSector, 8*512), disktest.Pattern(byte('a'+i), 8*512)) {
					t.Errorf("%d landed: %d is good, but it is not there", landed, i)
				}
			}
			if got := c.Read(256, int(wp)*512); !bytes.Equal(got, d.dev.m.Data(256, wp*512)) {
				t.Error("the zone reads otherwise than the drive has it")
			}
		}
	}
}

// A reset-all waits where a zone is at work, holds what it has passed, and two of
// them do not wait for each other.
func TestResetAllWaits(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c, e := d.held(t, disktest.IsWritev)
	other, third := disktest.NewClient(t, d), disktest.NewClient(t, d)
	third.WantError(third.Write(256, disktest.Pattern('z', 512)), nil)
	at3, at6 := disktest.NewRequest(disk.OpWrite, 384, disktest.Pattern('a', 512)), disktest.NewRequest(disk.OpWrite, 768, disktest.Pattern('a', 512))
	c.Submit(at3, at6)
	all, again := disktest.NewRequest(disk.OpResetAll, 0, nil), disktest.NewRequest(disk.OpResetAll, 0, nil)
	held, behind := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('b', 512)), disktest.NewRequest(disk.OpAppend, 384, disktest.Pattern('b', 512))
	other.Submit(all)
	third.Submit(again, held, behind)
	other.WantNothingDone("zone 3 is at work")
	free := disktest.NewClient(t, d)
	free.WantError(free.Write(1024, disktest.Pattern('f', 512)), nil) // nobody holds it
	e.release()
	c.WantDone(at3)
	other.WantNothingDone("zone 6 is at work")
	third.WantNothingDone("all is held")
	e.release()
	c.WantDone(at6)
	other.WantDone(all)
	for range 3 {
		third.WantError(third.Wait().Err, nil)
	}
	for _, i := range []int{2, 3, 6, 8} { // the second one found them written
		c.WantZone(i, zone.Empty, 0)
	}
}
