package backend

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A fault strikes what it names, there and as often as it says, and nothing
// else; what is written lands or does not, and the zones are as the rules for
// failed writes have them. Each case has a disk in which zone 4 is open with 16
// sectors, conventional zone 1 has data, and all others are empty.
func TestFaultsOnZones(t *testing.T) {
	const open, other = 4 * 128, 5 * 128
	data := disktest.Pattern('n', 24*512)
	for _, tt := range []struct {
		OpFault string
		do      func(c *disktest.Client) // zone 4 is at sector 512, zone 5 at 640
	}{
		{"read,zone=4", func(c *disktest.Client) {
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, open, make([]byte, 512))), disk.ErrIO)
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, open+127, make([]byte, 512))), disk.ErrIO) // never written
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, other, make([]byte, 512))), nil)
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 0, make([]byte, 256*512))), nil) // the conventional zones
			c.WantError(c.Write(open+16, data), nil)
			c.WantZone(4, zone.ImpOpen, 40)
			c.WantStruck(1, 2)
		}},
		{"read,sectors=130-131,once", func(c *disktest.Client) {
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 129, make([]byte, 512))), nil)
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 132, make([]byte, 512))), nil)
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 0, make([]byte, 256*512))), disk.ErrIO)
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 131, make([]byte, 512))), nil) // spent
			c.WantStruck(1, 1)
		}},
		{"write,zone=4-5", func(c *disktest.Client) { // whole: nothing lands
			for range 2 {
				c.WantError(c.Write(open+16, data), disk.ErrIO)
				c.WantZone(4, zone.ImpOpen, 16)
				c.WantError(c.Write(other, data), disk.ErrIO)
				c.WantZone(5, zone.Empty, 0) // no write was successful: it was never opened
			}
			at, err := c.Append(open, data) // is no write
			c.WantError(err, nil)
			if at != open+16 {
				c.T.Errorf("appended at sector %d", at)
			}
			c.WantError(c.Write(3*128, data), nil)
			c.WantStruck(1, 4)
		}},
		{"write,zone=4,once,after=9", func(c *disktest.Client) {
			c.WantError(c.Write(open+16, data[:9*512]), nil) // not longer: it never gets that far
			c.WantError(c.Write(open+25, data), disk.ErrIO)
			c.WantZone(4, zone.ImpOpen, 34)
			if got := c.Read(open+25, 24*512); !bytes.Equal(got, append(bytes.Clone(data[:9*512]), make([]byte, 15*512)...)) {
				c.T.Error("behind what landed there are no zeroes, or before it something else")
			}
			c.WantError(c.Write(open+25, data), zone.ErrUnaligned)
			c.WantError(c.Write(open+34, data), nil)
			c.WantZone(4, zone.ImpOpen, 58)
		}},
		{"append,zone=5,after=1", func(c *disktest.Client) {
			for i := range uint64(2) {
				_, err := c.Append(other, data)
				c.WantError(err, disk.ErrIO)
				c.WantZone(5, zone.ImpOpen, i+1)
			}
			c.WantError(c.Write(other+2, data), nil) // is no append
			if got := c.Read(other, 3*512); !bytes.Equal(got, data[:3*512]) {
				c.T.Error("something else landed")
			}
		}},
		{"write,sectors=200-300,after=4", func(c *disktest.Client) { // a conventional zone
			c.WantError(c.Write(196, data), disk.ErrIO)
			if got := c.Read(196, 24*512); !bytes.Equal(got, append(bytes.Clone(data[:4*512]), disktest.Pattern('c', 20*512)...)) {
				c.T.Error("not the first four sectors, and they only, have landed")
			}
			c.WantError(c.Write(176, data), nil) // ends before
			c.WantError(c.Write(open+16, data), nil)
		}},
		{"flush,times=2", func(c *disktest.Client) {
			c.WantError(c.Flush(), disk.ErrIO)
			c.WantError(c.Flush(), disk.ErrIO)
			c.WantError(c.Flush(), nil) // nothing has been lost
			r := disktest.NewRequest(disk.OpWrite, open+16, data)
			r.Stable = true
			c.WantError(c.Do(r), nil)
		}},
		{"full,left=12K", func(c *disktest.Client) {
			c.WantError(c.Write(open+16, make([]byte, 24<<9+512)), unix.ENOSPC)
			c.WantError(c.Write(open+16, make([]byte, 24<<9+512)), disk.ErrIO)
			c.WantZone(4, zone.ImpOpen, 16)
			c.WantError(c.Write(open+16, data), nil)
			_, err := c.Append(other, data[:512])
			c.WantError(err, unix.ENOSPC)
			c.WantError(c.Write(128, data[:512]), unix.ENOSPC)
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, open, make([]byte, 512))), nil)
			c.WantError(c.Flush(), nil)
			c.WantStruck(1, 4)
			c.Disk.Faults().ClearAll() // there is space again
			c.WantError(c.Write(other, data), nil)
		}},
	} {
		t.Run(tt.OpFault, func(t *testing.T) {
			path := imagetest.NewFast(t, disktest.Small)
			d := openDisk(t, path)
			c := disktest.NewClient(t, d)
			c.WantError(c.Write(open, disktest.Pattern('o', 16*512)), nil)
			c.WantError(c.Write(128, disktest.Pattern('c', 128*512)), nil)
			c.AddFaults(tt.OpFault)
			// What is wrong by itself keeps its own error, and strikes nothing.
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 1<<40, make([]byte, 512))), disk.ErrRange)
			c.WantError(c.Write(open+17, disktest.Pattern('x', 512)), zone.ErrUnaligned)
			c.WantError(c.Write(open+16, nil), nil)
			_, err := c.Append(other+1, disktest.Pattern('x', 512))
			c.WantError(err, zone.ErrInvalid)
			c.WantStruck(1, 0)
			tt.do(c)
			d.Faults().ClearAll()
			if got := c.Read(open, 16*512); !bytes.Equal(got, disktest.Pattern('o', 16*512)) {
				t.Error("what was there before has changed")
			}
			for i := 6; i < 16; i++ {
				c.WantZone(i, zone.Empty, 0)
			}
			imagetest.CloseDisk(t, d, path)
		})
	}
}

// What a fault lets land is rounded down to whole blocks.
func TestFaultLandsWholeBlocks(t *testing.T) {
	g := disktest.Small
	g.BlockSize = 4096
	path := imagetest.NewFast(t, g)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.AddFaults("write,zone=3,after=15,once", "write,zone=3,after=7")
	c.WantError(c.Write(384, disktest.Pattern('a', 16*512)), disk.ErrIO)
	c.WantZone(3, zone.ImpOpen, 8)
	c.WantError(c.Write(392, disktest.Pattern('b', 16*512)), disk.ErrIO)
	c.WantZone(3, zone.ImpOpen, 8) // less than a block: nothing
	imagetest.CloseDisk(t, d, path)
}

// Behind a write that a fault cuts short others have landed: its place reads as
// what landed of it, and then zeroes.
func TestFaultBeforeOtherWrites(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	c.AddFaults("append,zone=2,once,after=3")
	rs := c.AppendEach(e, 256, 3)
	e.Release(2, disktest.OpFault{})
	c.WantDone(rs[2])
	c.WantZone(2, zone.ImpOpen, 24)
	c.ReleaseAll(e)
	c.WantDone(rs[1], rs[0]) // what did not land is zeroed first
	c.WantError(rs[0].Err, disk.ErrIO)
	c.WantError(rs[1].Err, nil)
	want := append(disktest.Pattern('a', 3*512), make([]byte, 5*512)...)
	want = append(append(want, disktest.Pattern('b', 4096)...), disktest.Pattern('c', 4096)...)
	if got := c.Read(256, len(want)); !bytes.Equal(got, want) {
		t.Error("the zone reads otherwise")
	}
	// A fault and then a disk that fails indeed: nothing can be said to be there.
	c.AddFaults("append,zone=3,once,after=3")
	rs = c.AppendEach(e, 384, 1)
	e.Release(0, disktest.OpFault{N: 512, Err: unix.EIO})
	c.WantDone(rs[0])
	c.WantZone(3, zone.Empty, 0)
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}

// The same on an ordinary disk.
func TestFaultsOnOrdinaryDisk(t *testing.T) {
	d := openDisk(t, newPlain(t, 1<<20))
	c := disktest.NewClient(t, d)
	c.AddFaults("write,sectors=100-199,once,after=2", "read,sectors=1000-1999", "flush,once")
	c.WantError(c.Write(90, disktest.Pattern('a', 10*512)), nil)
	c.WantError(c.Write(98, disktest.Pattern('b', 4*512)), disk.ErrIO)
	if got := c.Read(97, 4*512); !bytes.Equal(got, append(append(disktest.Pattern('a', 512), disktest.Pattern('b', 2*512)...), make([]byte, 512)...)) {
		t.Error("not the first two sectors, and they only, have landed")
	}
	c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 999, make([]byte, 1024))), disk.ErrIO)
	c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 999, make([]byte, 512))), nil)
	c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 2048, make([]byte, 512))), disk.ErrRange)
	c.WantError(c.Flush(), disk.ErrIO)
	c.WantError(c.Flush(), nil)
	c.WantError(c.Do(ranges(disk.OpDiscard, disk.Range{Sector: 1000, Sectors: 8})), nil)
	for line, want := range map[string]string{
		"append": "no appends", "latency=1s,op=append": "no appends", "write,zone=1": "name sectors instead",
		"read,sectors=2048": "beyond the last, 2047",
	} {
		f, err := disk.ParseFault(line)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Faults().Add(disk.Fault{Kind: disk.FaultRead}, f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if n := d.Faults().ClearAll(); n != 3 {
		t.Errorf("%d faults: a refused list was added in part", n)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// An answer that is held back keeps nobody else waiting, and goes out when the
// fault is cleared, when its time has come, or when its worker is to end.
func TestLatency(t *testing.T) {
	for _, kind := range []string{"zoned", "ordinary"} {
		path := imagetest.NewFast(t, disktest.Small)
		if kind == "ordinary" {
			path = newPlain(t, 1<<20)
		}
		d := openDisk(t, path)
		c := disktest.NewClient(t, d)
		id := c.AddFaults("latency=1h,sectors=512-639")[0]
		slow := []*disk.Request{disktest.NewRequest(disk.OpWrite, 512, disktest.Pattern('a', 512)), disktest.NewRequest(disk.OpRead, 540, make([]byte, 512))}
		c.Submit(slow...)
		c.WantError(c.Write(640, disktest.Pattern('b', 512)), nil)
		c.WantError(c.Flush(), nil) // the write is done but for its answer
		if kind == "zoned" {
			c.WantZone(4, zone.ImpOpen, 1)
			c.WantError(c.ZoneOp(disk.OpFinish, 512), nil)
		}
		c.WantNothingDone("it is held back")
		if err := d.Faults().Clear(id); err != nil {
			t.Fatal(err)
		}
		for range slow {
			c.WantError(c.Wait().Err, nil)
		}

		// The longest counts, failures are held back too, and each once only.
		c.AddFaults("latency=1ms,op=read", "latency=2ms,op=read,times=2", "read,times=1")
		for i, want := range []error{disk.ErrIO, nil, nil} {
			if err := c.Do(disktest.NewRequest(disk.OpRead, 0, make([]byte, 512))); !errors.Is(err, want) {
				t.Errorf("read %d: %v", i, err)
			}
		}
		d.Faults().ClearAll()

		c.AddFaults("latency=1h,op=flush")
		r := disktest.NewRequest(disk.OpFlush, 0, nil)
		c.Submit(r)
		disktest.Await(t, func() bool { c.WantNothingDone("it is held back"); return d.Faults().Held() == 1 })
		c.Lane.Hurry(d)
		c.WantDone(r)
		c.WantError(c.Flush(), nil) // in a hurry for ever
		if n := d.Faults().Held(); n != 0 {
			t.Errorf("%d answers are held back", n)
		}
		if kind == "zoned" {
			imagetest.CloseDisk(t, d, path)
		} else if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Faults are added, struck, listed and cleared from everywhere at once: each
// strikes as often as it should, and no request is lost.
func TestFaultsFromEverywhere(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	const workers, rounds, times = 4, 200, 50
	f := disk.Fault{Kind: disk.FaultRead, Place: disk.InZones, First: 5, Last: 5, Times: times}
	if _, err := d.Faults().Add(f); err != nil {
		t.Fatal(err)
	}
	var failed [workers]int
	var wg sync.WaitGroup
	for w := range workers {
		c := disktest.NewClientOn(t, d, func(wake func()) (engine.Engine, error) { return engine.NewThreads(1, wake), nil })
		wg.Go(func() {
			for range rounds {
				if err := c.Do(disktest.NewRequest(disk.OpRead, 5*128, make([]byte, 512))); err != nil {
					failed[w]++
				}
				if err := c.Do(disktest.NewRequest(disk.OpRead, 6*128, make([]byte, 512))); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range rounds {
				ids, err := d.Faults().Add(disk.Fault{Kind: disk.FaultLatency, Delay: time.Microsecond, Times: 2}, disk.Fault{Kind: disk.FaultFlush})
				if err != nil {
					t.Error(err)
				}
				d.Faults().List()
				if err := d.Faults().Clear(ids...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range failed {
		sum += n
	}
	list := d.Faults().List()
	if sum != times || len(list) != 1 || list[0].Struck != times || !list[0].Spent {
		t.Errorf("%d reads failed, want %d; %+v", sum, times, list)
	}
	if d.Faults().Any() {
		t.Error("a spent fault costs requests time")
	}
	imagetest.CloseDisk(t, d, path)
}

// No disk has more faults than it may, and a number that is none clears nothing.
func TestFaultLimits(t *testing.T) {
	d := openDisk(t, newPlain(t, 1<<20))
	s := d.Faults()
	if _, err := s.Add(make([]disk.Fault, 1)...); err == nil {
		t.Error("no kind of fault was added")
	}
	many := make([]disk.Fault, disk.MaxFaults)
	for i := range many {
		many[i] = disk.Fault{Kind: disk.FaultFlush}
	}
	if _, err := s.Add(many...); err != nil {
		t.Error(err)
	}
	if _, err := s.Add(many[0]); err == nil || !strings.Contains(err.Error(), "at most 1000") {
		t.Errorf("one more: %v", err)
	}
	if err := s.Clear(1, 2, 4711); err == nil || len(s.List()) != disk.MaxFaults {
		t.Errorf("%v, and %d faults are left", err, len(s.List()))
	}
	if err := s.Clear(1, 2); err != nil || len(s.List()) != disk.MaxFaults-2 {
		t.Errorf("%v, and %d faults are left", err, len(s.List()))
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// Faults elsewhere make no request allocate.
func TestFaultsElsewhereDoNotAllocate(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.AddFaults("read,zone=5", "write,zone=5,after=8", "latency=1h,zone=5", "full,left=1G")
	r := disktest.NewRequest(disk.OpWrite, 0, make([]byte, 4096))
	f := func() {
		c.Lane.Submit(d, r)
		c.Lane.Start()
		c.Wait()
	}
	f()
	if n := testing.AllocsPerRun(100, f); n != 0 {
		t.Errorf("%v allocations", n)
	}
	imagetest.CloseDisk(t, d, path)
}
