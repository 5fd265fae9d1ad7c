package backend

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/imagetest"
)

// onEachEngine runs a test with each engine, on a disk in memory, on one with a
// page cache and on one without. The engine belongs to the test's goroutine.
func onEachEngine(t *testing.T, test func(t *testing.T, dir string, o disk.Options, kind engine.Kind)) {
	for _, kind := range engine.Kinds {
		for _, where := range []string{"memory", "disk", "direct"} {
			t.Run(fmt.Sprintf("%s, %s", kind, where), func(t *testing.T) {
				t.Parallel() // they wait for storage
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				dir := t.TempDir()
				if where == "memory" {
					dir = disktest.FastDir(t)
				}
				test(t, dir, disk.Options{Direct: where == "direct"}, kind)
			})
		}
	}
}

// crooked is memory for n bytes that no device takes as it is when by is not 0.
func crooked(n, by int) []byte {
	b := disk.NewBounce(uint64(n + by)) // on a page's border; never freed
	return b.Data[by:]
}

// pieces are vectors over data, of odd lengths when odd.
func pieces(data []byte, odd bool) (iov []unix.Iovec) {
	for len(data) > 0 {
		n := min(len(data), 1024)
		if odd {
			n = min(len(data), 777)
		}
		iov = append(iov, unix.Iovec{Base: &data[0], Len: uint64(n)})
		data = data[n:]
	}
	return iov
}

// An ordinary disk under all that guests do, 16 at a time, from memory that suits
// a device and from memory that does not, holds what a copy in memory holds.
func TestOrdinaryDiskOnEachEngine(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dir string, o disk.Options, kind engine.Kind) {
		const sectors, lanes, each = 4096, 16, 4096 / 16
		path := filepath.Join(dir, "plain")
		if err := os.WriteFile(path, make([]byte, sectors<<disk.SectorShift), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		c := disktest.NewClientOn(t, d, kind.Open)
		want := make([]byte, sectors<<disk.SectorShift)
		rng := rand.New(rand.NewPCG(1, 2))
		block := uint64(d.Info().LogicalBlockSize >> disk.SectorShift)
		for round := range 60 {
			rs, data := make([]*disk.Request, lanes), make([][]byte, lanes)
			for i := range rs { // each in a part of the disk of its own
				length := block * (1 + rng.Uint64N(min(24, each/block-1)))
				sector := uint64(i)*each + block*rng.Uint64N((each-length)/block+1)
				part := want[sector<<disk.SectorShift:][:length<<disk.SectorShift]
				odd := rng.IntN(3) == 0
				data[i] = crooked(len(part), map[bool]int{true: 1 + rng.IntN(3)}[odd])
				r := &disk.Request{Sector: sector, Bytes: uint64(len(part)), Iov: pieces(data[i], odd), Stable: rng.IntN(8) == 0}
				switch r.Op = []disk.Op{disk.OpRead, disk.OpRead, disk.OpWrite, disk.OpWrite, disk.OpWrite, disk.OpDiscard, disk.OpWriteZeroes, disk.OpFlush}[rng.IntN(8)]; r.Op {
				case disk.OpWrite:
					for j := range data[i] {
						data[i][j] = byte(round + i + j>>9)
					}
					copy(part, data[i])
				case disk.OpDiscard, disk.OpWriteZeroes:
					r.Ranges = []disk.Range{{Sector: sector, Sectors: uint32(length), Unmap: r.Op == disk.OpWriteZeroes && odd}}
					clear(part)
				}
				rs[i] = r
			}
			c.Submit(rs...)
			for range rs {
				c.Wait()
			}
			for i, r := range rs {
				if r.Err != nil {
					t.Fatalf("round %d: %v", round, r.Err)
				}
				if r.Op == disk.OpRead && !bytes.Equal(data[i], want[r.Sector<<disk.SectorShift:][:r.Bytes]) {
					t.Fatalf("round %d: read of %d bytes at sector %d is not what was written", round, r.Bytes, r.Sector)
				}
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the file is not what was written: %v", err)
		}
	})
}

// Appends and reads of an image, from memory that does not suit a device, too.
func TestImageOnEachEngine(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dir string, o disk.Options, kind engine.Kind) {
		path := imagetest.NewIn(t, dir, disktest.Small)
		d, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		c := disktest.NewClientOn(t, d, kind.Open)
		const n, bytesEach = 12, 2048
		start := uint64(3) * disktest.Small.ZoneSectors
		rs, data := make([]*disk.Request, n), make([][]byte, n)
		for i := range rs {
			data[i] = crooked(bytesEach, i%3)
			copy(data[i], disktest.Pattern(byte('A'+i), bytesEach))
			rs[i] = &disk.Request{Op: disk.OpAppend, Sector: start, Bytes: bytesEach, Iov: pieces(data[i], i%3 == 2)}
		}
		c.Submit(rs...)
		for range rs {
			if r := c.Wait(); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		for i, r := range rs {
			got := crooked(bytesEach, (i+1)%3)
			if err := c.Do(&disk.Request{Op: disk.OpRead, Sector: r.AppendSector, Bytes: bytesEach, Iov: pieces(got, i%2 == 0)}); err != nil || !bytes.Equal(got, data[i]) {
				t.Errorf("append %d at sector %d reads back %v, equal %v", i, r.AppendSector, err, bytes.Equal(got, data[i]))
			}
		}
		// The end of what is written, and zeroes behind it.
		end := start + n*bytesEach>>disk.SectorShift
		got := crooked(8192, 1)
		if err := c.Do(&disk.Request{Op: disk.OpRead, Sector: end, Bytes: 8192, Iov: pieces(got, true)}); err != nil || !bytes.Equal(got, make([]byte, 8192)) {
			t.Errorf("behind the write pointer: %v", err)
		}
		if err := c.Do(&disk.Request{Op: disk.OpRead, Sector: end - 4, Bytes: 8192, Iov: pieces(got, true)}); err != nil ||
			bytes.Equal(got[:2048], make([]byte, 2048)) || !bytes.Equal(got[2048:], make([]byte, 6144)) {
			t.Errorf("across the write pointer: %v", err)
		}
		imagetest.CloseDisk(t, d, path)
	})
}

// Where the front-end took its memory away a request fails, and nothing else does.
func TestMemoryGoneOnEachEngine(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dir string, o disk.Options, kind engine.Kind) {
		path := filepath.Join(dir, "plain")
		if err := os.WriteFile(path, disktest.Pattern('x', 1<<16), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		c := disktest.NewClientOn(t, d, kind.Open)
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // as workers do
		gone, err := unix.Mmap(-1, 0, 8192, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range []disk.Op{disk.OpRead, disk.OpWrite} {
			for _, at := range []int{0, 1} {
				c.WantError(c.Do(disktest.NewRequest(op, 0, gone[at:][:4096])), disk.ErrIO)
			}
		}
		got := make([]byte, 4096)
		if err := c.Do(disktest.NewRequest(disk.OpRead, 0, got)); err != nil || !bytes.Equal(got, disktest.Pattern('x', 4096)) {
			t.Errorf("afterwards: %v", err)
		}
		if err := unix.Munmap(gone); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}
