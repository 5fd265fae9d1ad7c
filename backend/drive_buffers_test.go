package backend

import (
	"bytes"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
)

// pageAligned returns n bytes that begin on a page.
func pageAligned(n int) []byte {
	b := make([]byte, n+pageBytes)
	at := int(-uintptr(unsafe.Pointer(&b[0])) & (pageBytes - 1))
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

// Only what the device cannot reach itself is copied, together with what is written
// with it: where a vector begins at an odd address, or is no whole blocks. What is
// written and read is right either way.
func TestDriveBuffers(t *testing.T) {
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
			d := newFakeDrive(t, small, nil, nil)
			c, e := d.held(t, isWrite)
			aligned := pageAligned(4096)
			lead, neighbour := request(OpAppend, 256, aligned), request(OpAppend, 256, aligned)
			data := memory[tt.at:][:8192]
			for i := range data {
				data[i] = byte(i * 7 >> 3)
			}
			want := bytes.Clone(data)
			r := &Request{Op: OpAppend, Sector: 256, Bytes: 8192, Iov: vectorsOf(data, tt.lengths...)}
			c.submit(lead)
			c.submit(r, neighbour)
			e.release()
			c.ended(lead)
			c.lane.Start()
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
				c.want(c.wait().Err, nil)
			}
			if r.bounce != nil {
				t.Error("its memory was not given back")
			}
			clear(data)
			read := &Request{Op: OpRead, Sector: r.AppendSector, Bytes: 8192, Iov: r.Iov}
			c.want(c.do(read), nil)
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
			c.want(c.do(read), nil)
			if !bytes.Equal(data, append(bytes.Clone(aligned), make([]byte, 4096)...)) {
				t.Error("it reads otherwise across the write pointer")
			}
		})
	}
}

// However large writes are that the device cannot reach, and however many, what is
// copied at a time has a limit, and no more is sent at once than the device takes.
func TestDriveCopies(t *testing.T) {
	const zones, n, each = 2*maxDetours + 8, 2*maxDetours + 5, 3*detourBytes + 8192
	for name, tt := range map[string]struct {
		conventional int
		part, pages  uint64
		longest      int // of one I/O, bytes
	}{
		"sequential":        {1, 1 << 30, 1 << 18, detourBytes},
		"conventional":      {zones - 2, 1 << 30, 1 << 18, detourBytes},
		"a device of bytes": {1, 100 << 10, 1 << 18, 100 << 10},
		"a device of pages": {1, 1 << 30, 20, 20 * pageBytes},
	} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDrive(t, Geometry{CapacitySectors: zones * 2048, ZoneSectors: 2048, ConventionalZones: tt.conventional, BlockSize: 4096}, nil, nil)
			d.partBytes, d.partPages = tt.part, tt.pages
			c, e := d.held(t, isWrite)
			rs, data := make([]*Request, n), make([][]byte, n)
			for i := range rs {
				zone := i + 1
				data[i] = make([]byte, each+1)[1:]
				for at := range data[i] {
					data[i][at] = byte(i*5 + at>>9 + at>>17)
				}
				rs[i] = &Request{Op: OpWrite, Sector: uint64(zone) * 2048, Bytes: each, Iov: vectorsOf(data[i], detourBytes-1, 2, each-detourBytes-1)}
			}
			c.submit(rs...)
			most := 0
			for ended := 0; ended < n; {
				copied := 0
				for _, r := range rs {
					if r.bounce != nil {
						copied += len(r.bounce.data)
					}
				}
				most = max(most, copied)
				e.release()
				for r := c.lane.Done(); r != nil; r = c.lane.Done() {
					c.want(r.Err, nil)
					ended++
				}
			}
			if limit := maxDetours * detourBytes; most > limit {
				t.Errorf("%d bytes are copied at once, want at most %d", most, limit)
			}
			if c.lane.detours != 0 {
				t.Errorf("%d are said to be copied yet", c.lane.detours)
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
func TestDriveCopyFails(t *testing.T) {
	const each = 3*detourBytes + 8192
	d := newFakeDrive(t, Geometry{CapacitySectors: 4 * 4096, ZoneSectors: 4096, BlockSize: 512}, nil, nil)
	c := newClient(t, d)
	data := make([]byte, each+1)[1:]
	for at := range data {
		data[at] = byte(at>>9 + at>>17)
	}
	r := request(OpWrite, 4096, data)
	d.dev.failing(engine.Writev, 4, nil, unix.EIO)
	c.want(c.do(r), ErrIO)
	const landed = detourBytes>>SectorShift + 4
	if want := [2]uint64{detourBytes >> SectorShift, 2 * detourBytes >> SectorShift}; r.tried != want {
		t.Errorf("sectors %v of the zone were tried, want %v", r.tried, want)
	}
	if r.bounce != nil || c.lane.detours != 0 {
		t.Error("its memory was not given back")
	}
	c.wantZone(1, ImpOpen, landed)
	c.want(c.write(4096+landed, data), nil)
	if !bytes.Equal(c.read(4096, landed<<SectorShift), data[:landed<<SectorShift]) || !bytes.Equal(c.read(4096+landed, each), data) {
		t.Error("it reads otherwise")
	}
}

// Memory that the front-end has taken away costs the request that uses it an
// error, and those that were made one with it; the zone is as it was, and goes on.
func TestDriveMemoryGone(t *testing.T) {
	gone, err := unix.Mmap(-1, 0, 4*pageBytes, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(gone); err != nil {
			t.Error(err)
		}
	})
	at := func(op Op, sector uint64, off int) *Request {
		base := (*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(gone)), off))
		return &Request{Op: op, Sector: sector, Bytes: 8192, Iov: []unix.Iovec{{Base: base, Len: 8192}}}
	}
	d := newFakeDrive(t, small, nil, nil)
	c, e := d.held(t, isWrite)
	lead, behind := request(OpAppend, 256, pattern('a', 8192)), request(OpWrite, 256+16, pattern('b', 512))
	batch := []*Request{request(OpAppend, 256, pattern('x', 512)), at(OpAppend, 256, 4), request(OpAppend, 256, pattern('x', 512))}
	c.submit(lead)
	c.submit(batch...)
	c.submit(behind)
	if err := onWorker(func() error {
		e.release()
		for n := 0; n < 5; {
			if c.lane.Done() != nil {
				n++
			} else if len(e.kept) > 0 {
				e.release()
			}
		}
		for _, r := range batch {
			c.want(r.Err, unix.EFAULT)
			c.want(r.Err, ErrIO)
		}
		e.hold = nil
		for _, off := range []int{0, 4, 3} { // the device's own EFAULT, and that of a copy
			for _, r := range []*Request{
				at(OpWrite, 256+17, off), at(OpAppend, 384, off), at(OpWrite, 0, off), at(OpRead, 256, off),
				at(OpRead, 256+16, off), at(OpRead, 640, off), at(OpRead, 0, off),
			} {
				err := c.do(r)
				c.want(err, unix.EFAULT)
				c.want(err, ErrIO)
				if r.bounce != nil {
					t.Error("its memory was not given back")
				}
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	c.want(lead.Err, nil)
	c.want(behind.Err, nil)
	c.wantZone(2, ImpOpen, 17)
	c.wantZone(3, Empty, 0)
	if !bytes.Equal(c.read(256, 17*512), append(pattern('a', 8192), pattern('b', 512)...)) {
		t.Error("the zone holds something else")
	}
}

// Reports of many zones, and many of them, have such a limit, too.
func TestDriveReportsCopied(t *testing.T) {
	const zones, n = 2*zonesAtATime + 5, 2*maxDetours + 5
	d := newFakeDrive(t, Geometry{CapacitySectors: zones * 8, ZoneSectors: 8, ConventionalZones: 1, BlockSize: 512}, nil, nil)
	c, e := d.held(t, func(op *engine.Op) bool { return op.Code == engine.ZoneReport })
	changed := []int{1, zonesAtATime - 1, zonesAtATime, 2*zonesAtATime - 1, 2 * zonesAtATime, zones - 1}
	for _, i := range changed {
		d.dev.set(i, ReadOnly)
	}
	rs := make([]*Request, n)
	for i := range rs {
		rs[i] = &Request{Op: OpReport, Bytes: zones}
	}
	c.submit(rs...)
	for ended := 0; ended < n; {
		most := 0
		for _, r := range rs {
			if r.bounce != nil {
				most += len(r.bounce.data)
			}
		}
		if limit := maxDetours * detourBytes; most > limit {
			t.Fatalf("%d bytes of reports at once, want at most %d", most, limit)
		}
		e.release()
		for r := c.lane.Done(); r != nil; r = c.lane.Done() {
			c.want(r.Err, nil)
			ended++
		}
	}
	if c.lane.detours != 0 {
		t.Errorf("%d are said to go on", c.lane.detours)
	}
	for i := range zones {
		want := Empty
		switch {
		case i == 0:
			want = NotWP
		case slices.Contains(changed, i):
			want = ReadOnly
		}
		if z := d.drive.ReportZone(i); z.State != want {
			t.Errorf("zone %d is %v, want %v", i, z.State, want)
		}
	}
	// One that fails ends there.
	asked := d.dev.count(engine.ZoneReport)
	d.dev.failing(engine.ZoneReport, 0, nil, unix.EIO)
	c.submit(rs[0])
	e.release()
	if r := c.lane.Done(); r != nil {
		t.Fatal("it has not asked about all zones")
	}
	e.release()
	c.want(c.wait().Err, ErrIO)
	if got := d.dev.count(engine.ZoneReport) - asked; got != 2 || c.lane.detours != 0 {
		t.Errorf("%d were asked for, and %d are said to go on", got, c.lane.detours)
	}
}
