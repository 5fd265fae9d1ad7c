package backend

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/iovec"
)

// Disks of 512-byte blocks on storage that is read and written in larger ones: several
// queues at once read, write, clear and discard whatever they like in sectors of their
// own, which share blocks with everybody else's. Nobody loses what another one does to
// his block, and the file keeps its size, which is no whole number of blocks.
func TestEdges(t *testing.T) {
	for _, kind := range engine.Kinds {
		for _, unit := range []uint32{1024, 4096, 65536} {
			for _, direct := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %d, direct %v", kind, unit, direct), func(t *testing.T) {
					t.Parallel()
					testEdges(t, kind, disk.Options{Direct: direct, MinUnit: unit})
				})
			}
		}
	}
}

func testEdges(t *testing.T, kind engine.Kind, o disk.Options) {
	path := filepath.Join(t.TempDir(), "plain")
	file := make([]byte, edgeSectors<<disk.SectorShift+100)
	for i := range file {
		file[i] = byte(i >> 9)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(file)[:edgeSectors<<disk.SectorShift]
	testEdgesOf(t, path, want, kind, o)
	copy(file, want)
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, file) {
		t.Errorf("the file has %d bytes, want %d; %v", len(got), len(file), err)
	}
}

const edgeSectors = 3*128 + 5

// testEdgesOf does what TestEdges says to the disk at path, which begins with want, and
// leaves in want what it has to hold then.
func testEdgesOf(t *testing.T, path string, want []byte, kind engine.Kind, o disk.Options) {
	const workers, depth, rounds = 3, 4, 60
	sectors := len(want) >> disk.SectorShift
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if i := d.Info(); i.LogicalBlockSize != 512 || i.CapacitySectors != uint64(sectors) {
		t.Fatalf("%+v", i)
	}
	// Sector by sector another worker's request: at any time one owner of each.
	owner := make([]int, sectors)
	for s := range owner {
		owner[s] = rand.IntN(workers * depth)
	}
	for s := 64; s < 200; s++ { // longer pieces, which have blocks in them that are whole
		owner[s] = s / 34 % (workers * depth)
	}
	var runs [workers * depth][][2]int // first sector and how many, side by side
	for s := 0; s < sectors; {
		n := 1
		for s+n < sectors && owner[s+n] == owner[s] {
			n++
		}
		runs[owner[s]] = append(runs[owner[s]], [2]int{s, n})
		s += n
	}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(disktest.AsWorker(t, d, kind, func(c *disktest.Client) {
			rnd := rand.New(rand.NewPCG(uint64(w), 7))
			for round := range rounds {
				var rs []*disk.Request
				var data [][]byte
				for q := range depth {
					mine := runs[w*depth+q]
					if len(mine) == 0 {
						continue
					}
					run := mine[rnd.IntN(len(mine))]
					skip := rnd.IntN(run[1])
					first, n := run[0]+skip, 1+rnd.IntN(run[1]-skip)
					b := crooked(n<<disk.SectorShift, rnd.IntN(2)*3)
					r := &disk.Request{Sector: uint64(first), Bytes: uint64(len(b)), Iov: pieces(b, rnd.IntN(2) == 0), Stable: rnd.IntN(4) == 0}
					part := want[first<<disk.SectorShift:][:len(b)]
					switch rnd.IntN(6) {
					case 0, 1:
						r.Op = disk.OpRead
					case 2, 3:
						r.Op = disk.OpWrite
						for i := range b {
							b[i] = byte(round + w + q + i>>9)
						}
						copy(part, b)
					case 4:
						r.Op, r.Ranges = disk.OpWriteZeroes, []disk.Range{{Sector: r.Sector, Sectors: uint32(n), Unmap: rnd.IntN(2) == 0}}
						clear(part)
					case 5: // what is discarded may stay: it is written at once
						r.Op, r.Ranges = disk.OpDiscard, []disk.Range{{Sector: r.Sector, Sectors: uint32(n)}}
						if err := c.Do(r); err != nil {
							t.Error(err)
						}
						r = &disk.Request{Op: disk.OpWrite, Sector: r.Sector, Bytes: r.Bytes, Iov: r.Iov}
						copy(b, disktest.Pattern(byte(round), len(b)))
						copy(part, b)
					}
					rs, data = append(rs, r), append(data, b)
				}
				c.Submit(rs...)
				c.WantAllDone(rs...)
				for i, r := range rs {
					if r.Err != nil {
						t.Error(r.Err)
						return
					}
					if r.Op == disk.OpRead && !bytes.Equal(data[i], want[r.Sector<<disk.SectorShift:][:r.Bytes]) {
						t.Errorf("worker %d, round %d: sectors %d to %d are not what was written", w, round, r.Sector, r.Sector+r.Bytes>>disk.SectorShift)
						return
					}
				}
			}
		}))
	}
	all.Wait()
	c := disktest.NewClient(t, d)
	if got := c.Read(0, sectors<<disk.SectorShift); !bytes.Equal(got, want) {
		t.Error("the disk is not what was written")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	o.ReadOnly = true
	ro, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	rc := disktest.NewClient(t, ro)
	if got := rc.Read(1, (sectors-1)<<disk.SectorShift); !bytes.Equal(got, want[512:]) {
		t.Error("read-only, the disk is not what was written")
	}
	if err := ro.Close(); err != nil {
		t.Error(err)
	}
}

// A part of a block that cannot be read or written costs its request an error, and
// lets the next one have the block.
func TestEdgeFails(t *testing.T) {
	d, err := Open(newPlain(t, 1<<20), disk.Options{MinUnit: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, e := disktest.HeldClient(t, d, nil)
	for _, code := range []engine.Code{engine.Readv, engine.Writev} {
		e.Fault = func(op *engine.Op) disktest.OpFault {
			if op.Code == code && op.Off == 4096 {
				return disktest.OpFault{Err: unix.EIO}
			}
			return disktest.OpFault{}
		}
		for _, r := range []*disk.Request{
			disktest.NewRequest(disk.OpWrite, 9, make([]byte, 512)),
			disktest.NewRequest(disk.OpWrite, 7, make([]byte, 1024)),
			ranges(disk.OpWriteZeroes, disk.Range{Sector: 9, Sectors: 1}),
		} {
			c.WantError(c.Do(r), disk.ErrIO)
		}
		e.Fault = nil
		c.WantError(c.Write(9, disktest.Pattern('a', 512)), nil)
		c.WantError(c.Write(7, disktest.Pattern('b', 1024)), nil)
	}
	if got := c.Read(7, 1536); !bytes.Equal(got, append(disktest.Pattern('b', 1024), disktest.Pattern('a', 512)...)) {
		t.Error("not what was written")
	}
}

// Appends of an image whose blocks are smaller than the storage's: many at once, in zones
// side by side, with resets in between.
func TestImageEdges(t *testing.T) {
	for _, kind := range engine.Kinds {
		for _, direct := range []bool{false, true} {
			for _, g := range []zone.Geometry{disktest.Small, {CapacitySectors: 33*4 - 2, ZoneSectors: 4, ConventionalZones: 1}, {CapacitySectors: 1001, ZoneSectors: 64, ZoneCapacitySectors: 61}} {
				t.Run(fmt.Sprintf("%s, direct %v, %d sectors", kind, direct, g.CapacitySectors), func(t *testing.T) {
					t.Parallel()
					testImageEdges(t, kind, g, disk.Options{Direct: direct, MinUnit: 4096})
				})
			}
		}
	}
}

func testImageEdges(t *testing.T, kind engine.Kind, g zone.Geometry, o disk.Options) {
	path := imagetest.New(t, g)
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	z := d.Info().Zoned
	var all sync.WaitGroup
	const workers = 3
	for w := range workers {
		all.Go(disktest.AsWorker(t, d, kind, func(c *disktest.Client) {
			rnd := rand.New(rand.NewPCG(uint64(w), 9))
			for round := range 25 {
				// Zones of its own, every third one, which may share blocks with their neighbours.
				i := w + workers*(1+rnd.IntN((z.Zones-1)/workers-1))
				if ReportZone := d.ReportZone(i); ReportZone.Type == zone.Conventional {
					continue
				}
				start := uint64(i) * z.ZoneSectors
				if err := c.ZoneOp(disk.OpReset, start); err != nil {
					t.Error(err)
					return
				}
				room := d.ReportZone(i).Capacity
				var rs []*disk.Request
				for n := uint64(0); n < room; {
					k := min(1+rnd.Uint64N(12), room-n, uint64(z.MaxAppendSectors))
					r := disktest.NewRequest(disk.OpAppend, start, disktest.Pattern(byte(round+len(rs)+w), int(k)<<disk.SectorShift))
					rs, n = append(rs, r), n+k
				}
				c.Submit(rs...)
				c.WantAllDone(rs...)
				if rnd.IntN(3) == 0 {
					if err := c.Flush(); err != nil {
						t.Error(err)
					}
				}
				for n, r := range rs {
					if r.Err != nil {
						t.Error(r.Err)
						return
					}
					got := make([]byte, r.Bytes)
					if err := c.Do(disktest.NewRequest(disk.OpRead, r.AppendSector, got)); err != nil || !bytes.Equal(got, iovec.Bytes(r.Iov[0])) {
						t.Errorf("worker %d, round %d: append %d of zone %d is not what was written: %v", w, round, n, i, err)
						return
					}
				}
			}
		}))
	}
	all.Wait()
	if d, err = reopened(d, path, o); err != nil {
		t.Fatal(err)
	}
	imagetest.CloseDisk(t, d, path)
	if st, err := os.Stat(path); err != nil || st.Size() != fileBytesOf(t, path) {
		t.Errorf("the file has %d bytes, %v", st.Size(), err)
	}
}

func reopened(d disk.Disk, path string, o disk.Options) (disk.Disk, error) {
	if err := d.Close(); err != nil {
		return nil, err
	}
	return Open(path, o)
}

func fileBytesOf(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := format.ReadSuper(f)
	if err != nil {
		t.Fatal(err)
	}
	return l.FileBytes()
}

// The block size that a guest sees is the operator's, or 512 of a file, whatever the
// storage takes at the moment; that of an image is the image's.
func TestBlockSizeIsTheOperators(t *testing.T) {
	plain, image := newPlain(t, 1<<20+512), imagetest.New(t, disktest.Small)
	for _, c := range []struct {
		path     string
		asked    uint32
		shown    uint32
		capacity uint64
		want     string
	}{
		{path: plain, shown: 512, capacity: 2049},
		{path: plain, asked: 512, shown: 512, capacity: 2049},
		{path: plain, asked: 4096, shown: 4096, capacity: 2048},
		{path: image, shown: 512, capacity: disktest.Small.CapacitySectors},
		{path: image, asked: 512, shown: 512, capacity: disktest.Small.CapacitySectors},
		{path: image, asked: 4096, want: "it has blocks of 512 bytes"},
	} {
		for _, unit := range []uint32{0, 512, 4096, 8192} {
			for _, direct := range []bool{false, true} {
				d, err := Open(c.path, disk.Options{BlockSize: c.asked, MinUnit: unit, Direct: direct})
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) {
						t.Errorf("%+v: %v", c, err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if i := d.Info(); i.LogicalBlockSize != c.shown || i.CapacitySectors != c.capacity || i.PhysicalBlockSize != 4096 {
					t.Errorf("%+v, unit %d, direct %v: %+v", c, unit, direct, i)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if _, err := Open(plain, disk.Options{MinUnit: 3 << 10}); err == nil || !strings.Contains(err.Error(), "leave --cache=direct out") {
		t.Errorf("a unit that is no power of two: %v", err)
	}
}
